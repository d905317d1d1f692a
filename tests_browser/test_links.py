"""Links to sections that a page once had still lead to what they were for."""

import pytest

# Sections of "Run on several cores" when it was one page, and the page that shows them now;
# none where it is still the same.
SECTIONS = {
    "loky-the-default": None,
    "your-function-travels-by-value": None,
    "what-it-cannot-load": None,
    "how-many-workers": None,
    "how-long-workers-stay": None,
    "the-trap-one-pool-for-everybody": None,
    "what-changed-in-python-3-14": None,
    "cure-1-leave-the-executor-out": None,
    "cure-2-put-the-function-into-a-module": None,
    "cure-3-ask-for-fork": None,
    "threads": "executors",
    "interpreters": "executors",
    "asynchronous-functions": "executors",
    "wait-for-the-end-or-do-it-right-here": None,
    "in-a-script": None,
    "dask-more-than-one-machine": "clusters",
    "connect-by-address": "clusters",
    "a-worker-dies": "clusters",
    "on-a-cluster-with-a-queue": "clusters",
    "ipyparallel": "clusters",
    "mpi": "clusters",
    "a-job-that-ends-before-the-work-does": "clusters",
    "how-to-choose": None,
    "what-each-evaluation-costs": "costs",
    "how-long-to-a-goal": "costs",
    "what-a-message-costs": "costs",
    "the-choice": None,
    "tidy-up": None,
    "where-to-go-next": None,
}

# The links of the section that a link to `id` leads to; null where it leads nowhere.
FOLLOW = """id => {
  location.hash = id;
  const target = document.querySelector(":target");
  if (!target?.getClientRects().length) return null;
  return [...target.closest("section").querySelectorAll("a")].map((link) => link.href);
}"""


@pytest.fixture
def parallelism(visit, site):
    return visit(f"{site}/tutorial/tutorial.parallelism.html", width=390).page


def test_sections_of_the_page_on_several_cores_are_found(parallelism, visit, site):
    found = {section: parallelism.evaluate(FOLLOW, section) for section in SECTIONS}
    assert [section for section, there in found.items() if there is None] == []
    for page in ("executors", "clusters", "costs"):
        address = f"{site}/tutorial/tutorial.{page}.html"
        moved = visit(address, width=390).page
        for section in (section for section, where in SECTIONS.items() if where == page):
            links = [link for link in found[section] if link.startswith(address)]
            assert links, f"#{section} does not lead on to {page}"
            assert moved.evaluate(FOLLOW, section) is not None, f"{page} has no #{section}"


def test_section_that_is_not_there_is_not_found(parallelism):
    assert parallelism.evaluate(FOLLOW, "no-such-section") is None
