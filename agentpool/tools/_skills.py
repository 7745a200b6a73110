"""Skills: directories with instructions that a model reads when it needs them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from agentpool._core.errors import Finding, ManifestError, ToolError
from agentpool._core.manifest import AgentManifest
from agentpool._core.messages import ToolDefinition
from agentpool._core.skills import SkillError, SkillHead, listed_skills, skill_head
from agentpool._core.text import shown
from agentpool.abc import Tool
from agentpool.tools._files import FileReader
from agentpool.tools._function import tool
from agentpool.tools._reading import excerpt_of
from agentpool.tools._shown import ShownTool, with_choice

MAX_HEAD_BYTES = 65_536
"""The front matter of a skill has to end within so many bytes."""

MAX_FILES = 50
"""So many files of a skill are named beside its instructions."""

_FILE_NAMES = ("SKILL.md", "skill.md")


@attrs.frozen
class Skill:
    """A skill that was found.

    Attributes:
      head: what its front matter says.
      directory: where it is.
      file: the name of its instructions there.
    """

    head: SkillHead
    directory: str
    file: str


def load_skills(manifest: AgentManifest) -> list[Skill]:
    """Find the skills of a manifest. Blocks on the disk.

    Raises:
      ManifestError: with a finding for each directory and each skill that is wrong.
    """
    findings: list[Finding] = []
    skills: dict[str, Skill] = {}
    for n, path in enumerate(manifest.skills):
        place = f"skills[{n}]"
        for skill in _skills_in(manifest, place, path, findings):
            other = skills.setdefault(skill.head.name, skill)
            if os.path.realpath(other.directory) != os.path.realpath(skill.directory):
                problem = f"{shown(skill.head.name)} is the name of the skill in {other.directory} already"
                source = os.path.join(skill.directory, skill.file)
                findings.append(Finding(source, "name", problem, "Give it another name"))
    if findings:
        raise ManifestError(findings)
    return list(skills.values())


def _skills_in(manifest: AgentManifest, place: str, path: str, findings: list[Finding]) -> Iterator[Skill]:
    source = f"manifest {manifest.name!r}"
    directory = os.path.join(os.path.abspath(manifest.base or "."), path)
    try:
        found = list(_places_in(directory))
    except OSError as error:
        problem = f"{path!r} cannot be read: {error.strerror or error}"
        findings.append(Finding(source, place, problem, "Give the path of a directory of skills"))
        return
    if not found:
        problem = f"there is no skill in {path!r}"
        fix = "A skill is a directory in it that holds a SKILL.md"
        findings.append(Finding(source, place, problem, fix))
    for inside, file in found:
        try:
            yield Skill(_head_of(os.path.join(inside, file)), inside, file)
        except SkillError as error:
            findings.append(Finding(os.path.join(inside, file), error.key, error.problem, error.fix))


def _places_in(directory: str) -> Iterator[tuple[str, str]]:
    """Yield the directories of skills, each with the name of its file: itself, or those in it."""
    names = os.listdir(directory)
    file = next((name for name in _FILE_NAMES if name in names), None)
    if file is not None:
        yield directory, file
        return
    for name in sorted(names):
        inside = os.path.join(directory, name)
        if name.startswith(".") or not os.path.isdir(inside):
            continue
        file = next((each for each in _FILE_NAMES if os.path.isfile(os.path.join(inside, each))), None)
        if file is not None:
            yield inside, file


def _head_of(path: str) -> SkillHead:
    try:
        if not os.path.isfile(path):
            raise SkillError("", "is no file", "Put the skill's instructions there")
        with open(path, "rb") as file:
            data = file.read(MAX_HEAD_BYTES)
    except OSError as error:
        problem = f"cannot be read: {error.strerror or error}"
        raise SkillError("", problem, "Check its permissions") from error
    # What was cut off may end within a letter.
    text = data.decode("utf-8", "ignore" if len(data) == MAX_HEAD_BYTES else "replace")
    if "\ufffd" in text or "\0" in text:
        raise SkillError("", "is not UTF-8", "Save it in the encoding UTF-8")
    return skill_head(text)


def skill_tools(manifest: AgentManifest) -> list[Tool]:
    """Return the tool that reads a manifest's skills. Blocks on the disk.

    Raises:
      ManifestError: as `load_skills`.
    """
    return [SkillReader(load_skills(manifest))]


class SkillReader(ShownTool):
    """The tool `read_skill`, which lists the skills. That the manifest names them grants them."""

    def __init__(self, skills: Iterable[Skill]) -> None:
        """Keep the skills, which differ in their names."""
        super().__init__(self.read_skill)
        self._skills = {skill.head.name: skill for skill in skills}

    def __repr__(self) -> str:
        return f"<read_skill of {', '.join(self._skills)}>"

    def described(self, plain: ToolDefinition) -> ToolDefinition:
        """Return the definition, with the skills in it."""
        listed = listed_skills([skill.head for skill in self._skills.values()])
        return with_choice(plain, "name", list(self._skills), f"The skills:\n{listed}")

    @tool(idempotent=True)
    def read_skill(self, name: str, file: str | None = None, start_line: int = 1) -> str:
        """Read a skill: instructions for a kind of task. Read the one that fits before you begin such a task.

        Args:
          name: which one.
          file: another file of the skill, as its instructions name it; left out, the instructions.
          start_line: the first line to show, from 1.
        """
        skill = self._skills.get(name)
        if skill is None:
            raise ToolError(f"there is no skill {shown(name)}; there are: {', '.join(self._skills)}")
        # No link and no `..` leads out of its directory.
        reader = FileReader([skill.directory], Path(skill.directory))
        text = excerpt_of(reader.roots, skill.file if file is None else file, start_line)
        return text + _others(reader, skill) if file is None and start_line == 1 else text


def _others(reader: FileReader, skill: Skill) -> str:
    names = [name for name in reader.list_files().split("\n") if name != skill.file]
    if not names:
        return ""
    more = f"\n- [and {len(names) - MAX_FILES} more]" if len(names) > MAX_FILES else ""
    return "\n\n[other files of this skill]\n" + "\n".join(f"- {name}" for name in names[:MAX_FILES]) + more
