#!/bin/sh
# GitHub Actions runner: set ACTIONS_RUNNER_HOOK_JOB_COMPLETED to this file in the runner's `.env`.
# The identity ends with the worker, which still sends the job's logs; this only tells the gateway.
set -eu
exec /usr/bin/weir ci-hook job-completed --kind github
