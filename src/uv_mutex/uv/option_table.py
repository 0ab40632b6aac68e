"""The options of uv's guarded subcommands, from crates/uv-cli/src/lib.rs: which take a value, and what some of them do.

A new uv brings a new option: add one word here. tests/e2e/test_options.py compares the table with
``uv SUBCOMMAND --help`` of every version, and names the options that are missing. The options that ``--help`` hides
are from uv's source.
"""

#: The subcommands that can change a project's environment, pyproject.toml or uv.lock.
GUARDED = frozenset(("add", "check", "remove", "run", "sync", "upgrade", "version"))
#: Of these, those that bring the environment up to date, and then start a program in it. `check` follows
#: crates/uv/src/commands/project/check.rs.
STARTING = frozenset(("check", "run"))
#: Those for which uv changes nothing if the environment is up to date.
SYNCING = STARTING | {"sync"}

_GLOBAL_FLAGS = """
-h --help -V --version -q --quiet -v --verbose --no-color --native-tls --no-native-tls --system-certs
--no-system-certs --offline --no-offline --no-progress --no-config --managed-python --no-managed-python
--allow-python-downloads --no-python-downloads --preview --no-preview --isolated --show-settings
--no-installer-metadata -n --no-cache --no-cache-dir
"""
_GLOBAL_VALUES = """
--color --allow-insecure-host --trusted-host --directory --project --config-file --cache-dir --python-preference
--python-fetch --preview-features --preview-feature
"""
_SHARED_FLAGS = """
--no-index -U --upgrade --no-upgrade --pre --no-sources --reinstall --no-reinstall --force-reinstall
--compile-bytecode --no-compile-bytecode --compile --no-compile --no-build --build --no-binary --binary
--no-build-isolation --build-isolation --refresh --no-refresh --require-build-hashes --no-require-build-hashes
--locked --frozen --active --no-active --no-sync
"""
_SHARED_VALUES = """
--index --default-index -i --index-url --extra-index-url -f --find-links --index-strategy --keyring-provider
-P --upgrade-package --upgrade-group --resolution --prerelease --prerelease-package --fork-strategy --exclude-newer
--exclude-newer-package --no-sources-package --reinstall-package --link-mode -C --config-setting --config-settings
--config-settings-package --no-build-isolation-package --no-build-package --no-binary-package --refresh-package
-p --python --package
"""
_GROUP_FLAGS = "--dev --no-dev --only-dev --all-extras --no-all-extras --no-default-groups --all-groups --all-packages"
_GROUP_VALUES = "--extra --no-extra --group --no-group --only-group --no-editable-package --python-platform"
_INSTALL_FLAGS = """
--no-install-project --only-install-project --no-install-workspace --only-install-workspace --no-install-local
--only-install-local
"""
_INSTALL_VALUES = "--no-install-package --only-install-package"
_EDITABLE_FLAGS = "--editable --no-editable"
_EXACT_FLAGS = "--exact --inexact --no-exact"

_FLAGS = {
    "run": f"""{_GROUP_FLAGS} {_EDITABLE_FLAGS} {_EXACT_FLAGS} -m --module -s --script --gui-script --no-env-file
        --no-project --no_workspace --show-resolution""",
    "sync": f"{_GROUP_FLAGS} {_EDITABLE_FLAGS} {_EXACT_FLAGS} {_INSTALL_FLAGS} --dry-run --check --no-check",
    "add": f"{_EDITABLE_FLAGS} {_INSTALL_FLAGS} --dev --raw --raw-sources --lfs --workspace --no-workspace",
    "check": f"{_GROUP_FLAGS} --fix --no-install-project --no-project --show-version --show-command",
    "remove": "--dev",
    "upgrade": "",
    "version": "--short --dry-run",
}
_VALUES = {
    "run": f"{_GROUP_VALUES} --env-file -w --with --with-editable --with-requirements --max-recursion-depth",
    "sync": f"{_GROUP_VALUES} {_INSTALL_VALUES} --script --output-format",
    "add": f"""{_INSTALL_VALUES} -r --requirements --requirement -c --constraints --constraint -m --marker --bounds
        --extra --optional --group --rev --tag --branch --script --no-editable-package""",
    "check": f"{_GROUP_VALUES} --script --ty-version",
    "remove": "--optional --group --script",
    "upgrade": "--exclude",
    "version": "--bump --output-format",
}

#: With one of these uv only prints something; it does not do the subcommand's work.
INFORMATION = frozenset(("-h", "--help", "-V", "--version", "--show-settings"))
#: With one of these a call changes nothing that the lock of a project protects.
HARMLESS = {
    "run": frozenset(("--no-sync", "--no-project", "--no_workspace")),
    "check": frozenset(("--no-sync", "--no-project")),
    "sync": frozenset(("--dry-run", "--check")),
    "version": frozenset(("--dry-run",)),
}
#: With one of these uv works even if nothing changed. A `run` that was prepared with them must not repeat that work.
FORCES_WORK = frozenset(
    """-U --upgrade -P --upgrade-package --upgrade-group --reinstall --force-reinstall --reinstall-package --refresh
    --refresh-package""".split()
)
#: They tell `run` what its target is: a module or a script.
TARGET_KIND = frozenset(("-m", "--module", "-s", "--script", "--gui-script"))
#: They decide what of a project goes into its environment. A script with inline metadata has nothing to choose from.
PROJECT_PARTS = frozenset(f"{_GROUP_FLAGS} {_GROUP_VALUES} {_EDITABLE_FLAGS} --package --no-sync".split()) - {
    "--python-platform"
}
#: They choose what uv prints, not what it does.
OUTPUT = frozenset("-q --quiet -v --verbose --color --no-color --no-progress --show-resolution --output-format".split())
#: They decide nothing about the project's environment. `--with` and its kin make another one on top of it; the file of
#: variables and the depth are for the command (crates/uv/src/commands/project/run.rs). The two folders lead to a
#: project, and what they lead to counts. Then come those for the program that `check` starts; the rest is about the
#: cache's place and how uv connects (GlobalArgs).
APART = frozenset(
    """-w --with --with-editable --with-requirements --env-file --no-env-file --max-recursion-depth --directory
    --project --fix --ty-version --show-version --show-command --cache-dir --native-tls --no-native-tls --system-certs
    --no-system-certs --allow-insecure-host --trusted-host --keyring-provider""".split()
)
#: They choose whether uv removes packages that nothing asks for.
EXACTNESS = frozenset(_EXACT_FLAGS.split())


def known_options(subcommand: str) -> dict[str, bool]:
    """The options that this table has for a subcommand.

    :param subcommand: a subcommand. If it is not a guarded one, or "", only the options that may stand before any.
    :returns: for each option, whether it takes a value.
    """
    flags, values = _GLOBAL_FLAGS, _GLOBAL_VALUES
    if subcommand in GUARDED:
        flags += _SHARED_FLAGS + _FLAGS[subcommand]
        values += _SHARED_VALUES + _VALUES[subcommand]
    return dict.fromkeys(flags.split(), False) | dict.fromkeys(values.split(), True)


def options_in_help(text: str) -> dict[str, bool]:
    """The options that a help text of uv lists, short and long.

    :param text: what ``uv SUBCOMMAND --help`` prints.
    :returns: for each option, whether it takes a value.
    """
    import re

    found = {}
    pattern = re.compile(r"^ +(?:(-\w)(?:, )?)? *(--[\w-]+)?(?:\.\.\.)?(?:[ =]?\[?=?(<))?", re.ASCII)
    for line in text.splitlines():
        if line.lstrip().startswith("-"):
            match = pattern.match(line)
            if match:
                short, long, value = match.groups()
                found.update({name: bool(value) for name in (short, long) if name})
    return found
