"""Note in an environment's folder that nothing it depends on has changed since uv prepared it.

Only the real uv judges an environment. A fresh note skips the preparation under the lock, but never uv's own check in
the call that follows. A note holds the key of a call (:mod:`uv_mutex.environment.request_key`) and a line about each
path that decides what the environment contains (:mod:`uv_mutex.environment.inputs`). It is fresh if the same lines
would be written now. It is written only after uv checked the whole environment and found nothing to change.
"""

from uv_mutex.environment import fingerprint, note_file, request_key
from uv_mutex.environment.fingerprint import GLOB, LISTED, PACKAGES, TREE
from uv_mutex.locking import network_cache
from uv_mutex.uv import pyproject

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.project import Project

#: The keys of a note, its lines, and the text about the contents of folders.
_State = tuple[tuple[str, ...], list[str], str]


class FreshnessNote:
    """The note of one environment for one kind of call.

    ``is_known_here``: whether the note that this host has kept says that the environment is fresh. Then nobody has had
    one of the locks alone since an earlier call of this host found the same.
    """

    def __init__(self, project: "Project", call: "Call", environ: "Mapping[str, str]", uv: str) -> None:
        """
        :param project: the project whose environment it is.
        :param call: the call that needs the environment.
        :param environ: the environment variables, those of uv included.
        :param uv: the path of the real uv.
        """
        self._project = project
        self._call = call
        self._environ = environ
        self._uv = uv
        self._config_file = request_key.config_file(call, environ)
        self._files = note_file.NoteFiles(project.environment, project.root, environ)
        self._before: _State | None = None
        self._cancelling: list[str] = []
        self._compared: list[str] | None = None
        self._found: note_file.StoredNote | None = None
        self.is_known_here = False

    def fresh(self, observed: "Sequence[str]" = ()) -> bool:
        """Whether the environment is still as the preparation left it.

        :param observed: the state of the locks, as lines of a note, if this call has not taken but only observed them.
        """
        self._compared = self._found = None
        self.is_known_here = False
        if self._call.forces_work:
            return False
        key = self._keys()[0]
        if observed:
            kept = self._files.read_of_host(key)
            if kept and kept.locks == [*observed] and self._holds(kept, skip_opened=True):
                self.is_known_here = True
                return True
        self._found = next(filter(self._holds, self._files.read(key)), None)
        return self._found is not None

    def keep_for_host(self, observed: "Sequence[str]") -> None:
        """Keep the note for other calls of this host, which use it until somebody takes a lock alone. Never fails.

        :param observed: as for :meth:`fresh`; the locks are still so.
        """
        if self._found and observed:
            note = note_file.StoredNote(self._found.lines, self._found.contents, reopen=True, locks=observed)
            self._files.write_of_host(self._keys()[0], note)

    def _holds(self, note: "note_file.StoredNote", *, skip_opened: bool = False) -> bool:
        """Whether the same note would be written now.

        :param skip_opened: do not ask the file server again about files that this process has opened. No call that had
            one of the locks alone has changed them since.
        """
        folder_changed, compared = False, []
        for line in note.lines:
            kind, _, path = line.split(" ", 2)
            if note.reopen:
                network_cache.reopen(path, was_opened=skip_opened and pyproject.was_opened(path))
            compared.append(line if kind == GLOB else fingerprint.describe(kind, path, self._environ))
            if compared[-1] == line:
                continue
            if kind not in LISTED:
                return False
            folder_changed = True
        try:
            if folder_changed and note.contents != self._contents(note.lines):
                return False
        except ValueError:  # a damaged note
            return False
        if self._variables_are_unknown(note.lines):
            return False
        self._compared = None if note.reopen else compared
        return True

    @property
    def compared_lines(self) -> list[str] | None:
        """The lines of the fresh note, as they are now; None if there is none, or if other hosts can change anything.

        The contents of a folder were compared after its line was described: a later change shows in the line.
        """
        return self._compared

    @property
    def cancelling_options(self) -> list[str]:
        """The options that keep uv from repeating what settings made the preparation do.

        See :mod:`uv_mutex.environment.configured_work`. It is empty before the preparation.
        """
        return self._cancelling

    def before_preparation(self) -> None:
        """Record the state of everything that decides. Call it under the lock, before the preparation."""
        from uv_mutex.environment import configured_work  # only a preparation needs it, not the check of a fresh note

        self._files.remove_older()
        self._cancelling = configured_work.cancelling_options(
            self._project, self._call, self._environ, self._config_file
        )
        self._before = self._observe()
        if self._before and any(
            fingerprint.changed_within(line, fingerprint.CLOCK_STEP_NS) for line in self._before[1]
        ):
            # A second change within the same step of the clock would not change the time.
            import time

            time.sleep(fingerprint.CLOCK_STEP_NS / 1e9)
            self._before = self._observe()

    def write(self) -> bool:
        """Write the note. Call it under the lock, after a preparation that succeeded.

        Never fails: without a note the next call prepares the environment again.

        :returns: False if something changed during the preparation. Then no note is written, since uv may have checked
            before the change. A second preparation will find nothing to do, and its note can be written.
        """
        if not self._before:
            return True
        after = self._observe()
        if not after or _without_trees(after) != _without_trees(self._before):
            return False
        keys, lines, contents = after
        if any(_may_change_unseen(line) for line in lines if line.startswith("file ")):
            return True
        # Nor would a folder's time show a second change. So compare the folder's contents each time.
        lines = [fingerprint.with_unknown_state(line) if _hides_second_change(line) else line for line in lines]
        if any("\n" in line for line in lines) or not any(line.startswith(PACKAGES) for line in lines):
            return True
        note = note_file.StoredNote(lines, contents, reopen=self._has_other_hosts())
        for key in keys:
            self._files.write(key, note)
        return True

    def inputs_digest(self, words: "Sequence[str]") -> str | None:
        """A digest of all that decides whether a preparation fails, but for the machine and the environment's contents.

        :param words: the words that uv is given for the preparation.
        :returns: None if it can't be told.
        """
        import hashlib

        from uv_mutex.environment import inputs, note_lines

        try:
            lines = inputs.describe_inputs(self._project, self._config_file, self._environ)
        except note_lines.UnsupportedInputsError:
            return None
        text = repr((self._keys()[0], lines, words))
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def _keys(self) -> tuple[str, ...]:
        return request_key.keys(self._project, self._call, self._environ, self._uv, self._config_file)

    def _contents(self, lines: "Sequence[str]") -> str:
        return note_file.contents_text(fingerprint.describe_contents(lines, self._environ), self._project.root)

    def _observe(self) -> "_State | None":
        """The present state of everything that decides; None if no note can hold it, or if uv works each time."""
        from uv_mutex.environment import inputs, note_lines  # likewise only for a preparation

        if self._call.forces_work or self._cancelling:
            return None
        environ, environment = self._environ, self._project.environment
        try:
            lines = inputs.describe_inputs(self._project, self._config_file, environ, reopen=self._has_other_hosts())
        except note_lines.UnsupportedInputsError:
            return None
        if self._variables_are_unknown(lines):
            return None
        lines.append(fingerprint.describe("file", f"{environment}/pyvenv.cfg", environ))
        lines += (fingerprint.describe(PACKAGES, path, environ) for path in fingerprint.site_packages(environment))
        return self._keys(), lines, self._contents(lines)

    def _variables_are_unknown(self, lines: "Sequence[str]") -> bool:
        """Whether a file of variables (--env-file) may set one that decides, as it does in uv before 0.11.15."""
        has_file = self._call.has("--env-file") or bool(self._environ.get("UV_ENV_FILE"))
        return has_file and any(line.startswith("env ") for line in lines)

    def _has_other_hosts(self) -> bool:
        """Whether another host may write to the project or its environment."""
        from uv_mutex.locking import filesystem  # likewise only for a preparation

        return not (filesystem.is_local(self._project.root) and filesystem.is_local(self._project.environment))


def forget(project: "Project", environ: "Mapping[str, str]") -> None:
    """Remove all notes and tickets of a project's environment, before another program than uv changes it. Never fails.

    :param project: the project.
    :param environ: the environment variables.
    """
    note_file.NoteFiles(project.environment, project.root, environ).remove()


def _without_trees(state: _State) -> _State:
    """The state without the lines about folders in which globs search.

    Their times change with each file that no glob matches. Those that match are in the contents.
    """
    keys, lines, contents = state
    return keys, [line for line in lines if not line.startswith(TREE)], contents


def _hides_second_change(line: str) -> bool:
    """Whether a folder may have the same time after another change."""
    return line.startswith(LISTED) and (
        fingerprint.has_coarse_time(line) or fingerprint.changed_within(line, fingerprint.CLOCK_STEP_NS)
    )


def _may_change_unseen(line: str) -> bool:
    """Whether the file may change once more without a new time, because its file system stores whole seconds."""
    return fingerprint.has_coarse_time(line) and fingerprint.changed_within(line, fingerprint.COARSE_STEP_NS)
