#!/bin/sh
# Prints deploy/kubernetes/monitoring/prometheusrule.yaml, generated from deploy/prometheus/rules.yml (`make
# prometheus-rule` writes it). `prometheus-rule.sh FOLDER` uses the rules of a copy of the repository's files.
set -eu
cat <<'HEAD'
---
# Made from deploy/prometheus/rules.yml with `make prometheus-rule`. Needs the Prometheus operator.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: voiceclone-events
  labels:
    app.kubernetes.io/name: voiceclone-events
    app.kubernetes.io/instance: voiceclone-events
spec:
HEAD
sed -e '/^---$/d' -e 's/^./  &/' "${1:-$(dirname "$0")/..}/deploy/prometheus/rules.yml"
