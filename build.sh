#!/usr/bin/env bash
# Puts what a running instance needs beside the code: the model files, fetched, verified, converted
# and quantised, and compiled modules. What only the making needs is installed in a temporary folder
# and leaves with it.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-python}
model=${FACE_MODEL:-facenet512}

disabled() { [[ ${1,,} =~ ^(0|false|no|off|n|f)$ ]]; }

build_models() {
	if disabled "${FACE_RECOGNITION_ENABLED:-true}"; then
		echo "FACE_RECOGNITION_ENABLED is false: no model is built in."
		return
	fi
	if [[ ${ENCODER:-} == remote ]]; then
		echo "ENCODER is remote: no model is built in."
		return
	fi
	if [[ $model == auto ]]; then
		echo "FACE_MODEL=auto is for development: name a model, such as facenet512, and build again." >&2
		exit 1
	fi
	tools=$(mktemp -d)
	trap 'rm -rf -- "$tools"' EXIT
	echo "Installing what converts models into a temporary folder"
	"$python" -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-deps \
		--require-hashes --target "$tools" -r requirements-build.txt
	if ! FACE_MODEL=$model PYTHONPATH="$tools:$PWD${PYTHONPATH:+:$PYTHONPATH}" "$python" -m faces.models fetch --discard-sources; then
		echo "The model $model could not be built in (see above). Nothing is deployed: a service without" >&2
		echo "its model would answer no search. Try again, or name another with FACE_MODEL." >&2
		exit 1
	fi
	FACE_MODEL=$model "$python" -m faces.models verify
}

build_models
"$python" -m compileall -q app faces indexer migrations
echo "Built."
