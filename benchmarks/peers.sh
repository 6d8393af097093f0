#!/bin/sh
# The tools that benchmarks compare with, in an environment of their own: benchmarks/peers.sh [FOLDER], default .peers.
# torch for the CPU and mergekit, 1.5 GB or more; nothing of it is imported by wspace or its tests.
set -eu
folder=${1:-.peers}
python=${PY:-python3}
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet mergekit==0.1.5
"$folder/bin/python" -c "import mergekit, torch; print('mergekit and torch', torch.__version__, 'in $folder')"
