#!/usr/bin/env bash
# Runs a command in a copy of the tree, so that what it builds touches nothing. Usage: tools/in_a_copy.sh COMMAND...
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$(dirname "$0")/.."
git ls-files -z | xargs -0 cp --parents -t "$work"
cd "$work"
"$@"
