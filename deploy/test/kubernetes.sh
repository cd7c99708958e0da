#!/usr/bin/env bash
# Test the overlay dev on the cluster of the current context, whose nodes must have the images
# tidemill-serve, tidemill-platform and tidemill-mlflow (:latest). Run it on a node, or where service
# addresses are reachable. With TIDEMILL_RIG it starts a cluster and downgrades the manifests.
. "$(dirname "$0")/lib.sh"
filter=cat
if [ -n "${TIDEMILL_RIG:-}" ]; then
    eval "$("$TIDEMILL_RIG/kubernetes-up")"
    filter=$TIDEMILL_RIG/kubernetes-downgrade
fi
kube() { kubectl -n tidemill "$@"; }
address() { kube get service "$1" -o jsonpath='{.spec.clusterIP}'; }
trap 'kill $(cat "$scratch"/*.pid 2>/dev/null) 2>/dev/null || true; kubectl delete namespace tidemill --wait=false >/dev/null 2>&1 || true; rm -rf "$scratch"' EXIT

say "build and apply"
build latest
deploy/make-secrets >/dev/null
deploy/k8s/apply-secrets >/dev/null
kubectl kustomize deploy/k8s/overlays/dev | "$filter" | kubectl apply -f - >/dev/null

say "all pods ready"
for each in statefulset/postgres deployment/redis deployment/mlflow deployment/api deployment/worker deployment/watch; do
    kube rollout status "$each" --timeout=900s
done
kube wait --for=condition=complete job/migrate job/trainer --timeout=900s
kube rollout status statefulset/serve --timeout=900s
site=http://$(address serve)
predict >/dev/null

say "a rolling update under load"
begin_load rolling "$site"
kube rollout restart statefulset/serve
kube rollout status statefulset/serve --timeout=900s
end_load rolling

say "a pod deleted under load"
begin_load pod "$site"
kube delete pod serve-0
kube rollout status statefulset/serve --timeout=600s
end_load pod

say "other resources"
kube get networkpolicies,poddisruptionbudgets,cronjobs,ingresses
say "kubernetes passed"
