"""Pages in Traditional Chinese, as used in Taiwan, beside those in English: the same sections, commands and figures."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from toolchain.paths import CHECKOUT

SUFFIX = ".zh-TW.md"
TRANSLATIONS = sorted(
    page for page in [*CHECKOUT.glob(f"*{SUFFIX}"), *CHECKOUT.glob(f"docs/**/*{SUFFIX}")] if page.is_file()
)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FIGURE = re.compile(r"\d+(?:[.:]\d+)*")
CHINESE = re.compile(r"[\u4e00-\u9fff]")
# What a diagram says in words: labels, messages, names of those who take part.
WORDS = re.compile(r'"[^"]*"|(?<=--) [^-]+(?= -->)|(?<=: ).*$|(?<= as ).*$', re.MULTILINE)
# Characters that only the simplified script has, of those that texts on computers use most.
SIMPLIFIED = set(
    "个们这为来对时说学习网络软动态资设备驱调选择发现实统组织结应开关进运连续数据记录单节错"
    "误请显图编译点让给类别权标签证过达从会么将与两样启执测试写读页线储环边间问题终虚拟计机"
)
# Words of another Chinese than Taiwan's, with what Taiwan says.
ELSEWHERE = {
    "集群": "叢集",
    "內存": "記憶體",
    "默認": "預設",
    "網絡": "網路",
    "軟件": "軟體",
    "程序": "程式",
    "進程": "行程",
    "插件": "外掛",
    "設備": "裝置",
    "信息": "資訊",
    "命令行": "命令列",
    "服務器": "伺服器",
    "數據": "資料",
    "鏡像": "映像檔",
    "調度": "排程",
}


@dataclass
class Section:
    """Part of a page from one heading to the next: what a translation has to leave as it is."""

    level: int = 0
    blocks: list[str] = field(default_factory=list)
    """Fenced blocks; of diagrams what is no word of theirs."""
    code: Counter[str] = field(default_factory=Counter)
    links: Counter[str] = field(default_factory=Counter)
    figures: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    """Lines of tables."""


def original(page: Path) -> Path:
    """The English page of a translation."""
    return page.with_name(page.name.removesuffix(SUFFIX) + ".md")


def sections(page: Path) -> list[Section]:
    """Sections of a page, the first one before any heading."""
    found = [Section()]
    block: list[str] | None = None
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            if block is None:
                block = [line]
                continue
            text = "\n".join(block)
            found[-1].blocks.append(WORDS.sub("", text) if block[0].strip() == "```mermaid" else text)
            block = None
        elif block is not None:
            block.append(line)
        else:
            if heading := re.match(r"#+(?= )", line):
                found.append(Section(len(heading[0])))
            _add(found[-1], line)
    assert block is None, f"{page}: a fenced block does not end"
    return found


def _add(section: Section, line: str) -> None:
    if line.startswith(("English | ", "[English](")):
        return  # each names the other language
    section.rows += line.startswith("|")
    section.code.update(CODE.findall(line))
    prose = CODE.sub("", line)
    section.links.update(link.replace(SUFFIX, ".md") for link in LINK.findall(prose))
    section.figures.update(FIGURE.findall(LINK.sub("", prose)))


def test_readme_and_concepts_are_translated():
    assert {str(page.relative_to(CHECKOUT)) for page in TRANSLATIONS} >= {
        "README.zh-TW.md",
        "docs/learn/concepts.zh-TW.md",
    }


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.name)
def test_translation_has_the_same_sections_commands_and_figures(page: Path):
    theirs, ours = sections(original(page)), sections(page)
    assert [section.level for section in ours] == [section.level for section in theirs]
    for number, (translated, english) in enumerate(zip(ours, theirs, strict=True)):
        assert translated == english, f"section {number} differs"


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.name)
def test_both_pages_name_each_other(page: Path):
    english = original(page)
    assert f"English | [繁體中文]({page.name})" in english.read_text(encoding="utf-8").splitlines()
    assert f"[English]({english.name}) | 繁體中文" in page.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("page", TRANSLATIONS, ids=lambda page: page.name)
def test_translation_is_the_chinese_of_taiwan(page: Path):
    text = page.read_text(encoding="utf-8")
    assert len(CHINESE.findall(text)) > 200
    assert not SIMPLIFIED & set(text)
    assert not [f"{word}: Taiwan says {ours}" for word, ours in ELSEWHERE.items() if word in text]
    # Markdown ends no bold text where a mark of punctuation stands before the asterisks and a character after them.
    bold = re.findall(r"\*\*([^*\n]+)\*\*(\S?)", text)
    assert not [words for words, after in bold if after and words[-1] in "\uff0c\uff1a\uff1b\uff1f\uff09\u3001\u3002"]


def test_differences_are_seen(tmp_path: Path):
    english, chinese = tmp_path / "page.md", tmp_path / f"page{SUFFIX}"
    diagram = '```mermaid\nflowchart LR\n  a["one"] -- two --> b\n```'
    english.write_text(f"English | [x](page.zh-TW.md)\n\n# A 3\n\n{diagram}\n\n`x` [l](o.md#p)\n")
    diagram = diagram.replace("one", "eins").replace("two", "zwei")
    same = f"[English](page.md) | x\n\n# B 3\n\n{diagram}\n\n[m](o.zh-TW.md#p) `x`\n"
    chinese.write_text(same)
    assert sections(english) == sections(chinese)
    changes = (("3", "4"), ("# B", "## B"), ("--> b", "--> c"), ("`x`", "`y`"), ("o.zh", "q.zh"), ("`x`", "`x`\n| y |"))
    for old, new in changes:
        chinese.write_text(same.replace(old, new))
        assert sections(english) != sections(chinese), (old, new)
