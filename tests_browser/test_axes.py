"""Pictures of two variables that are measured in the same unit do not stretch one of them."""

import pytest

# The plots with a picture or points in them that stretch an axis, by their number on the page.
STRETCHED = """() => {
  const figures = (view) => [
    ...(view.model.type === "Figure" ? [view] : []),
    ...(view.child_views ?? []).flatMap(figures),
  ];
  return [...document.querySelectorAll("[data-root-id]")].flatMap((root, number) =>
    figures(Bokeh.index[root.dataset.rootId]).filter(({ frame, model }) => {
      if (!model.renderers.some(({ glyph }) => /Image|Scatter/.test(glyph?.type))) return false;
      const { x_range, y_range, bbox } = frame;
      const across = bbox.width / (x_range.end - x_range.start);
      const up = bbox.height / (y_range.end - y_range.start);
      return Math.abs(across / up - 1) > 0.05;
    }).map(() => number + 1));
}"""


# Of the first plot of the page.
STRETCH = """() => {
  const [root] = document.querySelectorAll("[data-root-id]");
  const all = (view) => [view, ...(view.child_views ?? []).flatMap(all)];
  const views = all(Bokeh.index[root.dataset.rootId]);
  views.find(({ model }) => model.type === "Figure").model.frame_height = 140;
}"""


@pytest.mark.parametrize("width", [390, 1280])
def test_axes_of_two_variables_are_equal_below_those_of_one(visit, site, width):
    page = visit(f"{site}/tutorial/tutorial.custom_loss.html", width=width).page
    number = page.evaluate(
        """() => [...document.querySelectorAll("[data-root-id], #two-variables")]
          .findIndex((element) => element.id === "two-variables")"""
    )
    assert number > 0
    assert [one for one in page.evaluate(STRETCHED) if one > number] == []


@pytest.mark.parametrize("width", [390, 1280])
def test_axes_of_surfaces_are_equal_and_a_stretched_one_is_found(visit, site, width):
    # One visit for both: three dimensions take their time without a graphics card.
    page = visit(f"{site}/tutorial/tutorial.LearnerND.html", width=width).page
    assert page.evaluate(STRETCHED) == []
    page.evaluate(STRETCH)
    page.wait_for_timeout(500)
    assert page.evaluate(STRETCHED) == [1]
