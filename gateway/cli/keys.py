"""`tandem keys`: make a key. Keys are static entries of the configuration, kept as digests."""

from __future__ import annotations

import argparse

from gateway.limits.keys import create


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("keys", help="make API keys")
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    make = actions.add_parser("create", help="print a new key and the entry to configure")
    make.add_argument("--tenant", default="default", help="whose key it is (default)")
    make.set_defaults(run=run_create)


def run_create(arguments: argparse.Namespace) -> int:
    key, digest = create()
    print(f"key (shown once):  {key}")
    print("for the configuration:")
    print("keys:")
    print(f'  - {{digest: "{digest}", tenant: {arguments.tenant}}}')
    return 0
