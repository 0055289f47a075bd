#!/bin/sh
# Checks the deployment without a cluster: manifests, chart, compose file, Dockerfile, unit, Debian package.
# `check-deploy.sh FOLDER` checks a copy of the repository's files instead. Checks with a missing tool are listed as left
# out. Exits 1 if a check fails, after running all of them.
set -u

here=$(cd "$(dirname "$0")" && pwd)
cd "${1:-$here/..}" || exit 1

# `make check-deploy` says where.
tools=${TOOLS:-${CARGO_TARGET_DIR:-$here/../target}/tools}
PATH=$tools/deploy/bin:$tools/bin:$PATH
export PATH
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

found() { command -v "$1" >/dev/null 2>&1; }

left_out() { echo "left out: $1: $2"; }

# check NAME COMMAND...: shows the output of a failed command.
check() {
    name=$1
    shift
    if "$@" >"$scratch/output" 2>&1; then
        echo "ok: $name"
    else
        echo "WRONG: $name"
        sed 's/^/    /' "$scratch/output"
        failed=1
    fi
}

# Like check, for a tool that may be missing: the first word of the command.
check_with() {
    if found "$2"; then
        check "$@"
    else
        left_out "$1" "$2 is not there (scripts/setup.sh installs it)"
    fi
}

# `systemd-analyze verify` exits 0 at an unknown setting, and prints it. The program is not installed here.
unit_is_valid() {
    mkdir -p "$scratch/unit"
    sed 's#/usr/bin/voiceclone-events#/bin/true#' deploy/systemd/voiceclone-events.service \
        >"$scratch/unit/voiceclone-events.service"
    systemd-analyze verify --man=no "$scratch/unit/voiceclone-events.service" 2>&1 | tee "$scratch/printed"
    ! [ -s "$scratch/printed" ]
}

unit_is_hardened() { # an exposure below 1.5
    systemd-analyze security --offline=true --no-pager --threshold=15 deploy/systemd/voiceclone-events.service
}

rules_are_those_of_prometheus() {
    "$here/prometheus-rule.sh" "$PWD" | diff - deploy/kubernetes/monitoring/prometheusrule.yaml ||
        { echo "generate it again with: make prometheus-rule"; false; }
}

chart=deploy/helm/voiceclone-events

chart_is_the_manifests() {
    helm template voiceclone-events $chart --set monitoring.enabled=true >"$scratch/rendered.yaml" &&
        python "$here/compare-manifests.py" "$scratch/rendered.yaml" deploy/kubernetes/*.yaml deploy/kubernetes/monitoring/*.yaml
}

chart_scales_as_the_manifests() {
    helm template voiceclone-events $chart --set keda.enabled=true --show-only templates/keda.yaml >"$scratch/scaler.yaml" &&
        python "$here/compare-manifests.py" "$scratch/scaler.yaml" deploy/kubernetes/keda/*.yaml
}

chart_is_valid() {
    helm template voiceclone-events $chart --set keda.enabled=true --show-only templates/deployment.yaml \
        --show-only templates/migrate-job.yaml >"$scratch/chart.yaml" &&
        kubernetes-validate --strict -k 1.37.0 "$scratch/chart.yaml"
}

# The schema of the values refuses settings that cannot work.
chart_refuses() {
    ! helm template voiceclone-events $chart --set-string "$1"
}

# The package of the release build, if there is one.
package_is_clean() {
    binary=${CARGO_TARGET_DIR:-target}/release/voiceclone-events
    "$binary" man >"$binary.1" &&
        cargo deb --quiet --locked --no-build --output "$scratch/package.deb" &&
        lintian --fail-on error,warning "$scratch/package.deb"
}

check_with "Kubernetes manifests" kubernetes-validate --strict -k 1.37.0 deploy/kubernetes/*.yaml
for kind in keda/scaledobject:keda keda/triggerauthentication:keda \
    monitoring/servicemonitor:servicemonitor monitoring/prometheusrule:prometheusrule; do
    file=deploy/kubernetes/${kind%:*}.yaml
    check_with "$file" check-jsonschema --schemafile "$here/../tests/deploy/${kind#*:}.schema.json" "$file"
done
check "alert rules of the manifests and of Prometheus are the same" rules_are_those_of_prometheus
check_with "YAML style" yamllint --strict -c .yamllint deploy docker-compose.yml
check_with "docker-compose.yml" check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
check_with "Dockerfile" hadolint Dockerfile
check_with "values.schema.json" check-jsonschema --check-metaschema $chart/values.schema.json
check_with "the chart's values" check-jsonschema --schemafile $chart/values.schema.json $chart/values.yaml

if found helm && found kubernetes-validate; then # its environment has the YAML parser of the comparison
    check "Helm chart" helm lint --strict $chart
    check "Helm chart renders the manifests" chart_is_the_manifests
    check "Helm chart renders the scaler" chart_scales_as_the_manifests
    check "Helm chart with KEDA is valid" chart_is_valid
    check "Helm chart refuses a text for replicas" chart_refuses replicas=two
    check "Helm chart refuses loopback" chart_refuses config.HTTP_ADDR=127.0.0.1:8080
    check "Helm chart refuses a password among the settings" chart_refuses config.KAFKA_SASL_PASSWORD=x
else
    left_out "Helm chart" "helm is not there (scripts/setup.sh installs it)"
fi

if found systemd-analyze; then
    check "systemd unit" unit_is_valid
    check "systemd unit is hardened" unit_is_hardened
else
    left_out "systemd unit" "systemd-analyze is not there"
fi

if ! [ -x "${CARGO_TARGET_DIR:-target}/release/voiceclone-events" ]; then
    left_out "Debian package" "there is no release build (make deb)"
elif ! cargo deb --version >/dev/null 2>&1; then
    left_out "Debian package" "cargo-deb is not there (make deb)"
elif ! found lintian; then
    left_out "Debian package" "lintian is not there"
else
    check "Debian package" package_is_clean
fi

exit $failed
