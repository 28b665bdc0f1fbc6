"""What a command line of cron is called in a few letters. Pure.

`cd /srv && nice -n 10 flock -n /run/x.lock /opt/backup.sh --all > /dev/null` is `backup`: what only prepares,
what only wraps, folders and arguments are left out. Arguments may be secrets: of them only known subcommands
are part of a name.
"""

import re
import shlex
from collections.abc import Iterator
from urllib.parse import urlsplit

from shared.contracts.names import mended


def words_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


_MAX_DEPTH = 5
_NEUTRAL = words_of(
    "cd test [ [[ export unset source . set umask ulimit sleep true false : echo printf date mkdir touch "
    "which hash type exit return logger trap read"
)
"""Commands that only prepare or report; they give the name where there is nothing else."""
_DROPPED = words_of(
    "if then else elif fi do done while until for { } ! exec time command builtin nohup setsid chronic "
    "cronic stdbuf unbuffer caffeinate run-one systemd-cat"
)
_WRAPPERS = {
    "nice": ("-n", 0),
    "ionice": ("-c -n -p", 0),
    "chrt": ("-T -P -D", 1),
    "taskset": ("", 1),
    "sudo": ("-u -g -h -p -C -r -t -U", 0),
    "doas": ("-u -C", 0),
    "gosu": ("", 1),
    "runuser": ("-u -g -G", 0),
    "chroot": ("", 1),
    "timeout": ("-k -s --signal --kill-after", 1),
    "flock": ("-w -E --timeout", 1),
    "lockf": ("-t", 1),
    "setlock": ("", 1),
    "env": ("-u -C", 0),
    "systemd-run": ("-p -u -M -E --unit --property", 0),
    "runitor": ("-uuid -slug -ping-key -api-url", 0),
}
"""What runs another command: its options that have a value, and how many words stand before that command."""
_SHELLS = words_of("sh bash dash ash zsh ksh mksh su")
_INTERPRETERS = re.compile(
    r"(python|pypy|php|perl|ruby|node|nodejs|java|lua|Rscript|deno|bun|tclsh|pwsh)[0-9.]*", re.IGNORECASE
)
_SUBCOMMANDS = words_of(
    "artisan console manage wp rake occ drush certbot apt apt-get aptitude dnf yum snap restic borg "
    "borgmatic rclone git systemctl docker podman docker-compose kubectl npm yarn pnpm composer aws "
    "gcloud az bundle rails make gitlab-rake restic-backup duplicity zfs pvesr vzdump supervisorctl pm2 "
    "cargo go"
)
_EXTENSIONS = re.compile(r"\.(sh|bash|zsh|ksh|py|pyc|pl|php|rb|js|mjs|cjs|ts|jar|lua|R|ps1|cgi|bin|exe)$")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
_SUBCOMMAND = re.compile(r"[a-z][a-z0-9:_-]{0,31}")
_OPERATOR = re.compile(r"[();<>|&]+")


def job_name(command: str, depth: int = 0) -> str:
    """A name of at least one letter, not yet unlike all others."""
    fallback = ""
    for words in _simple_commands(command):
        name, is_neutral = _named(words, depth)
        if name and not is_neutral:
            return name
        fallback = fallback or name
    return fallback or "job"


def _simple_commands(command: str) -> Iterator[list[str]]:
    """The words of each, without redirections."""
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        tokens = list(lexer)
    except ValueError:  # a quotation that does not end
        tokens = command.split()
    words: list[str] = []
    skip = False
    for token in tokens:
        if not _OPERATOR.fullmatch(token):
            if not skip:
                words.append(token)
            skip = False
        elif token.strip("&0123456789") in (">", ">>", "<", "<<", "<<<"):
            skip = True
        else:
            yield words
            words, skip = [], False
    yield words


def _named(words: list[str], depth: int) -> tuple[str, bool]:
    """The name, empty if there is no command; and whether it only prepares."""
    while words:
        word = words[0].rpartition("/")[2] or words[0]
        if _ASSIGNMENT.fullmatch(words[0]):
            words = words[1:]
        elif word == "command" and words[1:2] in (["-v"], ["-V"]):
            return "command", True
        elif word in _DROPPED:
            words = _after_options(words[1:], frozenset())
        elif word in ("registry", "beat") and "--" in words:
            words = words[words.index("--") + 1 :]
        elif word in _WRAPPERS:
            options, before = _WRAPPERS[word]
            rest = _after_options(words[1:], frozenset(options.split()))
            if rest[before : before + 1] in (["-c"], ["--command"]) and depth < _MAX_DEPTH:
                return job_name(" ".join(rest[before + 1 : before + 2]), depth + 1), False
            if not rest[before:]:
                return _tidy(word), False
            words = rest[before:]
        elif word in _SHELLS:
            return _of_shell(word, words[1:], depth), False
        else:
            return _of_program(word, words), word in _NEUTRAL
    return "", True


def _after_options(words: list[str], with_value: frozenset[str]) -> list[str]:
    while words and words[0].startswith("-") and words[0] not in ("-", "-c", "--command"):
        if words[0] == "--":
            return words[1:]
        words = words[2:] if words[0] in with_value else words[1:]
    if words and words[0] == "-c" and "-c" in with_value:
        return _after_options(words[2:], with_value)
    return words


def _of_shell(shell: str, words: list[str], depth: int) -> str:
    for place, word in enumerate(words):
        if re.fullmatch("-[a-z]*c|--command", word) and depth < _MAX_DEPTH and words[place + 1 :]:
            return job_name(words[place + 1], depth + 1)
        if not word.startswith("-") and shell != "su":
            return _tidy(word)
    return shell


def _of_program(word: str, words: list[str]) -> str:
    rest = words[1:]
    if word in ("curl", "wget", "http", "https", "fetch", "lynx"):
        hosts = (urlsplit(each).hostname for each in rest if re.match("https?://[^/@]+(/|$)", each))
        return _tidy(next(filter(None, hosts), word))
    if word == "run-parts":
        return _tidy(next((each for each in rest if not each.startswith("-")), word))
    if _INTERPRETERS.fullmatch(word):
        for place, each in enumerate(rest):
            if each in ("-m", "-jar") and rest[place + 1 :]:
                return _tidy(rest[place + 1])
            if each in ("-c", "-e", "-r"):
                return _tidy(word)
            if not each.startswith("-"):
                return _with_subcommand(_tidy(each), rest[place + 1 :])
    return _with_subcommand(_tidy(word), rest)


def _with_subcommand(name: str, rest: list[str]) -> str:
    found = next((each for each in rest if not each.startswith("-")), "")
    return f"{name}-{mended(found)}" if name in _SUBCOMMANDS and _SUBCOMMAND.fullmatch(found) else name


def _tidy(word: str) -> str:
    """The last part of a path without what says only which language it is in."""
    last = _EXTENSIONS.sub("", word.rstrip("/").rpartition("/")[2])
    return re.sub(r"[.-]{2,}", "-", mended(last)).strip("-._") or "job"
