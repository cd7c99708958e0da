#!/usr/bin/env bash
# Full test under load: restarts, scaling, an alert, down and up, an upgrade: full.sh [PART ...]
. "$(dirname "$0")/lib.sh"
trap 'kill $(cat "$scratch"/*.pid 2>/dev/null) 2>/dev/null || true; compose down -v -t 5 >/dev/null 2>&1 || true; rm -rf "$scratch"' EXIT
healthy() { [ -n "$(compose ps -q "$1")" ] && for id in $(compose ps -q "$1"); do [ "$(docker inspect -f '{{.State.Health.Status}}' "$id")" = healthy ] || return 1; done; }
sql() { compose exec -T postgres psql -U postgres -d tidemill -tAc "$1"; }
query() { curl -fs "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query" --data-urlencode "query=$1" | field data.result.0.value.1; }

# Restart each service under load. The proxy has no replica, so its failures are only reported.
restarts() {
    begin_load restarts
    for name in ${RESTART:-serve redis postgres api worker sync ingest mlflow prometheus alertmanager}; do
        compose restart "$name" >/dev/null 2>&1
        eventually 600 healthy "$name"
        echo "$name is healthy again ($SECONDS s)"
    done
    end_load restarts
    begin_load proxy-restart
    compose restart proxy >/dev/null 2>&1
    eventually 60 healthy proxy
    end_load proxy-restart reported
    predict >/dev/null
}

scale() {
    up --scale serve=3 --scale worker=3
    begin_load scaled
    jobs=()
    for _ in 1 2 3; do jobs+=("$(ask -fsS "$site/train" -d '{"model": "iris-classifier"}' | field job_id)"); done
    for job in "${jobs[@]}"; do
        ended() { [ "$(ask "$site/train/status/$job" | field status)" = succeeded ]; }
        eventually 900 ended
    done
    echo "three jobs ran on $(sql "select count(distinct worker) from jobs where kind = 'train'") workers"
    all_answer() { [ "$(query 'count(increase(model_predictions_total[2m]) > 0)')" = 3 ]; }
    eventually 120 all_answer
    python3 deploy/test/panels.py "http://127.0.0.1:$PROMETHEUS_PORT"
    end_load scaled
    up --scale serve=1 --scale worker=1
}

alert() {
    arrived() { compose exec -T alertmanager wget -qO- http://127.0.0.1:9093/api/v2/alerts | grep -q '"TidemillIngestDown"'; }
    gone() { ! arrived; }
    compose stop ingest >/dev/null 2>&1
    eventually 400 arrived
    echo "Alertmanager received the alert ($SECONDS s)"
    compose start ingest >/dev/null 2>&1
    eventually 600 gone
}

keep() {
    local before version
    before=$(sql "select count(*) from predictions")
    version=$(predict | field version)
    compose down >/dev/null 2>&1
    up
    [ "$(predict | field version)" = "$version" ] || die "another version is served"
    [ "$(sql "select count(*) from predictions")" -ge "$before" ] || die "predictions were lost"
}

upgrade() {
    build next
    begin_load upgrade
    export TIDEMILL_SERVE_IMAGE=tidemill-serve:next TIDEMILL_PLATFORM_IMAGE=tidemill-platform:next TIDEMILL_MLFLOW_IMAGE=tidemill-mlflow:next
    deploy/upgrade "${files[@]}" >"$scratch/upgrade.log" 2>&1 || { tail -20 "$scratch/upgrade.log"; die "upgrade"; }
    end_load upgrade
    [ "$(docker inspect -f '{{.Config.Image}}' "$(compose ps -q serve)")" = tidemill-serve:next ] || die "the old image is still running"
}

say "build and start"
build
deploy/make-secrets >/dev/null
compose down -v -t 5 >/dev/null 2>&1 || true
up
predict >/dev/null
for part in "${@:-restarts alert keep upgrade scale}"; do for name in $part; do say "$name"; $name; done; done
say "full passed"
