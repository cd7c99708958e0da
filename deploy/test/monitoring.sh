#!/usr/bin/env bash
# Test rules and panel queries on real servers without containers, and a fault that reaches
# Alertmanager. Needs prometheus, alertmanager, caddy (CADDY=...) and the development environment.
set -euo pipefail
cd "$(dirname "$0")/../.."
scratch=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait; rm -rf "$scratch"' EXIT
python=$PWD/.venv/bin/python
alertmanager=$(command -v alertmanager || command -v prometheus-alertmanager)
serve=18100 api=18101 ingest=18102 proxy=18103 store=18104 alerts=18105 site=18106
export TIDEMILL_HOME=$scratch/home TIDEMILL_PROJECT=gallery:iris TIDEMILL_AUTH=off
eventually() {
    local until=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $until ] || { echo "timed out waiting for: $*"; tail -n 5 "$scratch"/*.log; exit 1; }; sleep 0.5; done
}
start() { local name=$1; shift; "$@" >"$scratch/$name.log" 2>&1 & pid=$!; }
answers() { curl -fs -o /dev/null "http://127.0.0.1:$1"; }

mkdir "$TIDEMILL_HOME"
"$python" -c 'import pathlib, sys
from tests.contract.serving.conftest import make_shelf
make_shelf(pathlib.Path(sys.argv[1]), ("classifier",))' "$TIDEMILL_HOME/shelf"
.venv/bin/tidemill migrate >/dev/null
# Queue a job for the job metrics; there is no worker to run it.
"$python" -c 'from tidemill.platform import Platform
from tidemill.settings import Settings
from tidemill.stores.jobs.jobs import NewJob
Platform.open(Settings()).submit(NewJob("probe"))'
start serve "$python" -m tidemill.serving --port $serve; server=$pid
start api .venv/bin/tidemill api --port $api
TIDEMILL_INGEST_METRICS_PORT=$ingest start ingest "$python" -m tidemill.loop.ingest
printf '{\n admin off\n persist_config off\n auto_https off\n servers {\n metrics\n }\n}\n:%s {\n reverse_proxy 127.0.0.1:%s\n}\n:%s {\n metrics /metrics\n}\n' \
    $site $serve $proxy >"$scratch/Caddyfile"
start proxy "${CADDY:-caddy}" run --adapter caddyfile --config "$scratch/Caddyfile"
start alertmanager "$alertmanager" --config.file=deploy/alertmanager/alertmanager.yml --storage.path="$scratch/am" \
    --web.listen-address=127.0.0.1:$alerts --cluster.listen-address=
# The deployed configuration with this machine's addresses.
sed -e "s#/etc/prometheus/rules#$PWD/deploy/prometheus/rules#" -e "s#alertmanager:9093#127.0.0.1:$alerts#" \
    -e "s#dns_sd_configs: \[{ names: \[serve\].*#static_configs: [{ targets: [\"127.0.0.1:$serve\"] }]#" \
    -e "s#dns_sd_configs: \[{ names: \[api\].*#static_configs: [{ targets: [\"127.0.0.1:$api\"] }]#" \
    -e "s#ingest:9101#127.0.0.1:$ingest#" -e "s#proxy:2020#127.0.0.1:$proxy#" -e "s#localhost:9090#127.0.0.1:$store#" \
    deploy/prometheus/prometheus.yml >"$scratch/prometheus.yml"
start prometheus prometheus --config.file="$scratch/prometheus.yml" --storage.tsdb.path="$scratch/data" --web.listen-address=127.0.0.1:$store

for each in $serve/ready $api/health $ingest/metrics $proxy/metrics $alerts/-/ready $store/-/ready; do eventually 120 answers "$each"; done
body=$(curl -fs "http://127.0.0.1:$site/schema" | "$python" -c 'import json,sys; print(json.dumps(next(iter(json.load(sys.stdin)["examples"].values()))))')
echo "panels ($SECONDS s)"
ask() { curl -fs -o /dev/null -H 'content-type: application/json' -d "$body" "http://127.0.0.1:$site/predict"; answers $api/health; sleep 0.3; }
full() { ask; python3 deploy/test/panels.py "http://127.0.0.1:$store" >"$scratch/panels.log" 2>&1; }
eventually 180 full
cat "$scratch/panels.log"

echo "the server dies ($SECONDS s)"
kill -KILL "$server"
fired() { curl -fs "http://127.0.0.1:$alerts/api/v2/alerts" | grep -q '"TidemillServeDown"'; }
eventually 300 fired
echo "Alertmanager received the alert ($SECONDS s)"
