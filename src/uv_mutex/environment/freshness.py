"""Note in an environment's folder that nothing it depends on has changed since uv prepared it.

Only the real uv judges an environment. A fresh note skips the preparation under the lock, but never uv's own check in
the call that follows. A note holds the key of a call (:mod:`uv_mutex.environment.request_key`) and a line about each
path that decides what the environment contains (:mod:`uv_mutex.environment.inputs`). It is fresh if the same lines
would be written now. It is written only after uv checked the whole environment and found nothing to change.
"""

from uv_mutex.environment import fingerprint, note_file, request_key
from uv_mutex.environment.fingerprint import MEMBERS, PACKAGES
from uv_mutex.locking import network_cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from uv_mutex.uv.commandline import Call
    from uv_mutex.uv.project import Project

#: The keys of a note, its lines, and the text about the contents of folders.
_State = tuple[tuple[str, ...], list[str], str]


class FreshnessNote:
    """The note of one environment for one kind of call."""

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
        self._before: _State | None = None

    def fresh(self) -> bool:
        """Whether the environment is still as the preparation left it."""
        if self._call.forces_work:
            return False
        note = note_file.read(self._project.environment, self._project.root, self._keys()[0])
        if note is None:
            return False
        folder_changed = False
        for line in note.lines:
            kind, _, rest = line.partition(" ")
            path = rest.partition(" ")[2]
            if note.reopen:
                network_cache.reopen(path)
            if fingerprint.describe(kind, path, self._environ) == line:
                continue
            if kind not in (PACKAGES, MEMBERS):
                return False
            folder_changed = True
        return not folder_changed or note.contents == self._contents(note.lines)

    def before_preparation(self) -> None:
        """Record the state of everything that decides. Call it under the lock, before the preparation."""
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
        if after != self._before:
            return False
        keys, lines, contents = after
        if any(_may_change_unseen(line) for line in lines if line.startswith("file ")):
            return True
        # Nor would coarse times show a second change to the installed packages. So compare their contents each time.
        lines = [
            fingerprint.with_unknown_state(line)
            if line.startswith(PACKAGES) and fingerprint.has_coarse_time(line)
            else line
            for line in lines
        ]
        if any("\n" in line for line in lines) or not any(line.startswith(PACKAGES) for line in lines):
            return True
        note = note_file.StoredNote(lines, contents, reopen=self._has_other_hosts())
        for key in keys:
            note_file.write(self._project.environment, self._project.root, key, note)
        return True

    def inputs_digest(self, words: "Sequence[str]") -> str | None:
        """A digest of all that decides whether a preparation fails, but for the machine and the environment's contents.

        :param words: the words that uv is given for the preparation.
        :returns: None if it can't be told.
        """
        import hashlib

        from uv_mutex.environment import inputs

        try:
            lines = inputs.describe_inputs(self._project, self._config_file, self._environ)
        except inputs.UnsupportedInputsError:
            return None
        text = repr((self._keys()[0], lines, words))
        return hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def _keys(self) -> tuple[str, ...]:
        return request_key.keys(self._project, self._call, self._environ, self._uv, self._config_file)

    def _contents(self, lines: "Sequence[str]") -> str:
        return note_file.contents_text(fingerprint.describe_contents(lines, self._environ), self._project.root)

    def _observe(self) -> "_State | None":
        """The present state of everything that decides; None if no note can hold it, or if the call needs no note."""
        from uv_mutex.environment import inputs  # only a preparation needs it, not the check of a fresh note

        if self._call.forces_work:
            return None
        environ, environment = self._environ, self._project.environment
        try:
            lines = inputs.describe_inputs(self._project, self._config_file, environ, reopen=self._has_other_hosts())
        except inputs.UnsupportedInputsError:
            return None
        lines.append(fingerprint.describe("file", f"{environment}/pyvenv.cfg", environ))
        lines += (fingerprint.describe(PACKAGES, path, environ) for path in fingerprint.site_packages(environment))
        return self._keys(), lines, self._contents(lines)

    def _has_other_hosts(self) -> bool:
        """Whether another host may write to the project or its environment."""
        from uv_mutex.locking import filesystem  # likewise only for a preparation

        return not (filesystem.is_local(self._project.root) and filesystem.is_local(self._project.environment))


def forget(environment: str) -> None:
    """Remove all notes of an environment, before another program than uv changes it. Never fails."""
    note_file.remove_all(environment)


def _may_change_unseen(line: str) -> bool:
    """Whether the file may change once more without a new time, because its file system stores whole seconds."""
    return fingerprint.has_coarse_time(line) and fingerprint.changed_within(line, fingerprint.COARSE_STEP_NS)
