#!/usr/bin/env bash
# What a stack does, done by hand with kind, helm and kubectl, one step after the other: the baseline of the benchmark.
#   by-hand.sh up|down FOLDER NAME DEVICES
# FOLDER holds what tests/bench/by_hand.py wrote: kind.yaml, images (one reference a line), chart, and steps in their
# order, each with either values.yaml of the chart, or objects.yaml, rollouts (what is waited for) and perhaps
# waiting.yaml (what waits for a GPU). DEVICES is the number of devices that the driver publishes.
set -euo pipefail
cd "$2"
name=$3 devices=$4
export KUBECONFIG=$PWD/kubeconfig

if [ "$1" = down ]; then
  kind delete cluster --name "$name"
  exit
fi

published() {
  kubectl get resourceslices -o json | jq '[.items[].spec.devices // [] | .[]] | length'
}

kind create cluster --name "$name" --config kind.yaml --wait 240s
xargs kind load docker-image --name "$name" <images
for step in steps/*; do
  if [ -e "$step/values.yaml" ]; then
    helm install dra-driver-nvidia-gpu ./chart --namespace dra-driver-nvidia-gpu --create-namespace --skip-crds \
      --values "$step/values.yaml" --wait
    deadline=$((SECONDS + 120))
    until [ "$(published)" = "$devices" ]; do
      [ "$SECONDS" -lt "$deadline" ] || { echo "no $devices devices after 120 s" >&2; exit 1; }
      sleep 0.25 # between two looks at a condition that is bounded above
    done
  else
    kubectl apply -f "$step/objects.yaml"
    while read -r namespace object; do
      kubectl rollout status --namespace "$namespace" "$object" --timeout=120s
    done <"$step/rollouts"
    if [ -e "$step/waiting.yaml" ]; then kubectl apply -f "$step/waiting.yaml"; fi
  fi
done
