#!/bin/sh
# GitLab runner, shell executor: post_build_script = "/etc/weir/hooks/gitlab-post-build.sh" in
# config.toml.
set -eu
exec /usr/bin/weir ci-hook job-completed --kind gitlab
