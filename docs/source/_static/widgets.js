/* Show the notebook widgets of a page at rest, as their last state left them.
 *
 * The page carries that state as JSON. Of the widget types there are, boxes and
 * HTML are shown; buttons need a kernel and are left out.
 */
document.addEventListener("DOMContentLoaded", () => {
  const stateType = "application/vnd.jupyter.widget-state+json";
  const viewType = "application/vnd.jupyter.widget-view+json";
  const saved = document.querySelector(`script[type="${stateType}"]`);
  if (!saved) return;
  const models = JSON.parse(saved.textContent).state;

  const htmlOf = (id) => {
    const { model_name: name, state } = models[id] ?? {};
    if (name === "HTMLModel") return state.value;
    if (!/^(V|H)?BoxModel$/.test(name ?? "")) return "";
    return state.children.map((ref) => htmlOf(ref.replace("IPY_MODEL_", ""))).join("");
  };

  for (const view of document.querySelectorAll(`script[type="${viewType}"]`)) {
    const html = htmlOf(JSON.parse(view.textContent).model_id);
    if (!html) continue;
    const box = document.createElement("div");
    box.className = "widget-at-rest";
    box.innerHTML = html;
    view.after(box);
  }
});
