#!/bin/sh
# Makes .venv and installs Tandem into it. Runs again in a second when nothing has changed.
#   deploy/setup.sh        what the gateway needs, and the local engine if it compiles
#   deploy/setup.sh dev    the same, and what tests and checks need
# PYTHON names the interpreter (3.11 or newer). TANDEM_LOCAL=0 leaves the local engine out.
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
WHAT=${1:-run}
VENV=.venv
LOG=$VENV/local-engine.log
ENGINE=llama-cpp-python==0.3.36

say() { printf '%s\n' "$*" >&2; }

make_venv() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        say "Tandem needs Python 3.11 or newer; $PYTHON is $("$PYTHON" -V 2>&1). Set PYTHON=..."
        exit 1
    }
    "$PYTHON" -m venv "$VENV" || {
        rm -rf "$VENV"
        say "No virtual environment could be made. On Debian and Ubuntu: apt install python3-venv"
        exit 1
    }
}

install() {
    say "installing the Python packages into $VENV ..."
    extras=""
    [ "$1" = dev ] && extras="[dev]"
    "$VENV/bin/pip" install --quiet --disable-pip-version-check \
        --constraint deploy/constraints.txt --editable ".$extras"
}

# Waits for a process and prints how far the compiler is: the build counts its steps as [n/m].
watch() {
    shown=""
    while kill -0 "$1" 2>/dev/null; do
        sleep 5
        step=$(grep -o '\[[0-9]*/[0-9]*\]' "$2" 2>/dev/null | tail -n 1)
        [ -n "$step" ] && [ "$step" != "$shown" ] && say "  compiling llama.cpp: step $step"
        shown=$step
    done
}

install_engine() {
    "$VENV/bin/python" -c 'import llama_cpp' 2>/dev/null && return 0
    command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 ||
        command -v clang++ >/dev/null 2>&1 || {
        say "local models are off: no C++ compiler was found (apt install g++ cmake)."
        return 0
    }
    say "installing the local engine. llama.cpp is compiled for this machine, which takes about"
    say "five minutes on two cores, once. The whole log: $LOG"
    # The multimodal part and TLS are not used by the engine and cost a third of the time.
    CMAKE_ARGS="${CMAKE_ARGS:--DLLAVA_BUILD=OFF -DLLAMA_OPENSSL=OFF}" \
        "$VENV/bin/pip" install --verbose --disable-pip-version-check \
        --constraint deploy/constraints.txt "$ENGINE" >"$LOG" 2>&1 &
    builder=$!
    watch "$builder" "$LOG"
    if wait "$builder"; then
        say "the local engine is installed."
    else
        say "local models are off: the engine did not compile. From $LOG:"
        { grep -iE '(^|[^a-z])error' "$LOG" || tail -n 5 "$LOG"; } | head -n 8 >&2
        say "Tandem goes on with cloud upstreams only. To try again: rm $VENV/.ready-*; make setup"
    fi
}

[ -x "$VENV/bin/python" ] || make_venv
wanted=$(cat pyproject.toml deploy/constraints.txt deploy/setup.sh | cksum | cut -d' ' -f1)
ready="$VENV/.ready-$WHAT-$wanted-${TANDEM_LOCAL:-1}"
[ -e "$ready" ] && exit 0
install "$WHAT"
[ "${TANDEM_LOCAL:-1}" = 0 ] || install_engine
rm -f "$VENV"/.ready-"$WHAT"-*
: >"$ready"
