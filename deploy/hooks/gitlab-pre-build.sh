#!/bin/sh
# GitLab runner, shell executor: pre_build_script = "/etc/weir/hooks/gitlab-pre-build.sh" in
# config.toml. The job needs `id_tokens:` with the audience of the configuration.
# WEIR_REQUIRE=1 in the runner's environment: a job that cannot be identified fails here.
set -eu
if [ "${WEIR_REQUIRE:-0}" = 1 ]; then
    set -- --require
fi
exec /usr/bin/weir ci-hook job-started --kind gitlab "$@"
