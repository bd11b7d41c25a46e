#!/usr/bin/env bash
# What stack phase1 does, done by hand with kind, helm and kubectl: the baseline of the benchmark.
#   by-hand.sh up|down FOLDER NAME GPUS
# FOLDER holds kind.yaml, images (one reference a line), gpu-sim.yaml, values.yaml, chart, workloads-1.yaml and
# workloads-2.yaml. Waits for what the stack waits for: the GPUs in their slices, and the first workload.
set -euo pipefail
cd "$2"
name=$3 gpus=$4
export KUBECONFIG=$PWD/kubeconfig

if [ "$1" = down ]; then
  kind delete cluster --name "$name"
  exit
fi

published() {
  kubectl get resourceslices -o json |
    jq '[.items[].spec.devices // [] | .[] | select(.attributes.type.string == "gpu")] | length'
}

kind create cluster --name "$name" --config kind.yaml --wait 240s
xargs kind load docker-image --name "$name" <images
kubectl apply -f gpu-sim.yaml
kubectl rollout status -n gpu-sim daemonset/gpu-sim --timeout=120s
helm install dra-driver-nvidia-gpu ./chart --namespace dra-driver-nvidia-gpu --create-namespace --values values.yaml --wait
deadline=$((SECONDS + 120))
until [ "$(published)" = "$gpus" ]; do
  [ "$SECONDS" -lt "$deadline" ] || { echo "no $gpus GPUs after 120 s" >&2; exit 1; }
  sleep 0.25 # between two looks at a condition that is bounded above
done
kubectl apply -f workloads-1.yaml
kubectl rollout status -n workloads deployment/holder --timeout=120s
kubectl apply -f workloads-2.yaml
