"""Compares what the Helm chart renders with the plain manifests.

compare-manifests.py RENDERED MANIFEST...: exits 1 and names each field that differs. Labels and annotations that are
Helm's own do not count, nor do objects that only one side makes by other means (ONLY_RENDERED, ONLY_PLAIN).
"""

import sys

import yaml

HELM_LABELS = ("helm.sh/chart", "app.kubernetes.io/managed-by", "app.kubernetes.io/version")
# docs/deploy.md makes it with kubectl from roles.sql
ONLY_RENDERED = {("ConfigMap", "voiceclone-events-roles")}
# examples, which the chart expects to exist
ONLY_PLAIN = {"Secret"}


def without_helm(of):
    metadata = of.get("metadata", {})
    for label in HELM_LABELS:
        metadata.get("labels", {}).pop(label, None)
    kept = {
        name: value
        for name, value in metadata.pop("annotations", {}).items()
        if not name.startswith(("helm.sh/", "checksum/"))
    }
    if kept:
        metadata["annotations"] = kept


def read(paths):
    found = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            for document in filter(None, yaml.safe_load_all(file)):
                without_helm(document)
                without_helm(document.get("spec", {}).get("template", {}))
                found[(document["kind"], document["metadata"]["name"])] = document
    return found


def differences(place, ours, theirs):
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted(ours.keys() | theirs.keys()):
            yield from differences(f"{place}.{name}", ours.get(name), theirs.get(name))
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for at, (our, their) in enumerate(zip(ours, theirs)):
            yield from differences(f"{place}[{at}]", our, their)
    elif ours != theirs:
        yield f"{place}: the chart has {ours!r}, the manifest {theirs!r}"


def main():
    rendered = read(sys.argv[1:2])
    plain = read(sys.argv[2:])
    count = 0
    for key in sorted(rendered.keys() | plain.keys()):
        if key in ONLY_RENDERED or key[0] in ONLY_PLAIN:
            continue
        for line in differences("/".join(key), rendered.get(key), plain.get(key)):
            print(line)
            count += 1
    sys.exit(1 if count else 0)


main()
