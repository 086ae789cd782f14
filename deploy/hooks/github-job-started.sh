#!/bin/sh
# GitHub Actions runner: set ACTIONS_RUNNER_HOOK_JOB_STARTED to this file in the runner's `.env`.
# Owned by root, not writable for the runner's user. The job needs `permissions: id-token: write`.
# WEIR_REQUIRE=1 in `.env`: a job that cannot be identified fails before its first step.
set -eu
if [ "${WEIR_REQUIRE:-0}" = 1 ]; then
    set -- --require
fi
exec /usr/bin/weir ci-hook job-started --kind github "$@"
