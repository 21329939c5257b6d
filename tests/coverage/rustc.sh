#!/bin/sh
# What cargo calls in place of rustc for the crates of this workspace, with rustc and its arguments.
exec "$@" -C instrument-coverage
