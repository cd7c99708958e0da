#!/usr/bin/env bash
# Smoke test: build and check the images, start compose, predict over TLS.
. "$(dirname "$0")/lib.sh"
trap 'compose down -v -t 5 >/dev/null 2>&1 || true; rm -rf "$scratch"' EXIT

say "build"
build
deploy/make-secrets >/dev/null
base=$(docker image inspect -f '{{.Size}}' "$(sed -n 's/^ARG BASE=//p' deploy/Dockerfile)")
for target in serve platform mlflow; do
    image=tidemill-$target:test
    size=$((($(docker image inspect -f '{{.Size}}' $image) - base) / 1000000))
    echo "$target: $size MB over its base"
    [ "$(docker image inspect -f '{{.Config.User}}' $image)" = 10001:10001 ] || die "$image runs as another user"
    [ "$(docker image inspect -f '{{len .Config.Healthcheck.Test}}' $image)" -gt 1 ] || die "$image has no health check"
    [ "$(docker image inspect -f '{{index .Config.Labels "org.opencontainers.image.version"}}' $image)" = test ] || die "$image has no version"
    [ $target != serve ] || [ $size -lt 250 ] || die "the serve image is over 250 MB"
done
docker run --rm --entrypoint sh tidemill-serve:test -c '! command -v gcc cc mlflow && ! python -c "import mlflow" 2>/dev/null' || die "the serve image is not slim"

say "rules"
prometheus=$(compose config --format json | field services.prometheus.image)
docker run --rm -v "$PWD/deploy:/deploy:ro" --entrypoint promtool "$prometheus" test rules /deploy/test/rules/alerts.yml
docker run --rm -v "$PWD/deploy/prometheus:/etc/prometheus:ro" --entrypoint promtool "$prometheus" check config /etc/prometheus/prometheus.yml >/dev/null

say "compose up"
compose down -v -t 5 >/dev/null 2>&1 || true
up
for name in $(compose ps --services --status running); do
    id=$(compose ps -q "$name" | head -1)
    [ "$(docker inspect -f '{{.HostConfig.ReadonlyRootfs}}' "$id")" = true ] || die "$name can write to its root"
    [ "$(docker inspect -f '{{.State.Health.Status}}' "$id")" = healthy ] || die "$name is not healthy"
done

say "a prediction over TLS, read back from the database"
id=$(predict | field id)
[ "$(curl -sk -o /dev/null -w '%{http_code}' "$site/predict" -X POST -d '{}')" = 403 ] || die "no key was asked for"
for path in metrics metrics/ api/metrics api/metrics/ //api/metrics; do
	[ "$(curl -sk --path-as-is -o /dev/null -w '%{http_code}' "$site/$path")" = 404 ] || die "metrics are public at $path"
done
stored() { [ "$(compose exec -T postgres psql -U postgres -d tidemill -tAc "select count(*) from predictions where id = '$id'")" = 1 ]; }
eventually 60 stored

say "Prometheus scrapes everything"
targets() { curl -fs "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/targets?state=active" | python3 -c 'import json,sys
found = json.load(sys.stdin)["data"]["activeTargets"]
down = [t["scrapeUrl"] for t in found if t["health"] != "up"]
sys.exit(bool(down) or len(found) < 6)'; }
eventually 90 targets
ends() { curl -fs "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query?query=probe_ssl_earliest_cert_expiry" | field data.result.0.value.1; }
eventually 60 ends
say "smoke passed"
