// In: a film as HTML. Out: the film with zoom and a heat map that follows the chosen finding; of two models
// both, which show the same part of the film and the same finding.
const MOST = 8; // times the whole film

export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".root");
  if (root.dataset.id === data.id) return;
  const focused = root.getRootNode().activeElement?.dataset?.step; // it goes on with the next film
  root.dataset.id = data.id;
  root.innerHTML = data.html;
  bindHeatMaps(root);
  bindZoom(root);
  bindSteps(root, setTriggerValue);
  if (focused) root.querySelector(`[data-step="${focused}"]`)?.focus({ preventScroll: true });
  parentElement.querySelector(".heard").textContent = data.spoken;
  const pictures = [...root.querySelectorAll(".picture")];
  Promise.all(pictures.map((picture) => picture.decode())).then(() =>
    requestAnimationFrame(() => setTimeout(() => performance.mark("film-shown", { detail: data.id }))),
  ); // for who measures: the picture is on the screen
}

let listening = null; // the one listener for keys, of the film that is shown

function bindSteps(root, setTriggerValue) {
  const go = (by) => setTriggerValue("step", String(by));
  for (const button of root.querySelectorAll("[data-step]")) {
    button.onclick = () => go(button.dataset.step);
  }
  document.removeEventListener("keydown", listening);
  if (!root.querySelector("[data-step]")) return;
  const keys = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1 };
  listening = (event) => {
    const at = event.composedPath()[0];
    const busy = at.closest?.("input, textarea, select, [role=listbox], [role=combobox], .window");
    if (busy || event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    go(keys[event.key]);
  };
  document.addEventListener("keydown", listening);
}

function bindHeatMaps(root) {
  const switched = root.querySelector("[data-heat]");
  const strength = root.querySelector("[data-strength]");
  const show = () => {
    const chosen = root.querySelector("input[name=finding]:checked");
    for (const heat of root.querySelectorAll(".heat")) {
      heat.hidden = !switched.checked || heat.dataset.finding !== chosen.value;
    }
    root.style.setProperty("--strength", strength.value / 100);
    root.querySelector("[data-shown]").textContent = chosen.closest("label").querySelector(".name").textContent;
    for (const note of root.querySelectorAll("[data-when]")) {
      note.hidden = !note.dataset.when.split(" ").includes(chosen.value);
    }
    root.querySelector(".legend").classList.toggle("off", !switched.checked);
  };
  root.onchange = show;
  for (const row of root.querySelectorAll(".pair tbody tr")) {
    row.onclick = (event) => event.target.closest("label") || row.querySelector("input").click();
  }
  strength.oninput = show;
  show();
}

function bindZoom(root) {
  const panes = [...root.querySelectorAll(".window")];
  let zoom = 1;
  const follow = (pane) => {
    for (const other of panes) {
      if (other !== pane) [other.scrollLeft, other.scrollTop] = [pane.scrollLeft, pane.scrollTop];
    }
  };
  const setZoom = (factor, pane) => {
    const before = zoom;
    zoom = factor ? Math.min(MOST, Math.max(1, zoom * factor)) : 1;
    const [x, y] = [pane.scrollLeft + pane.clientWidth / 2, pane.scrollTop + pane.clientHeight / 2];
    for (const one of panes) {
      const layers = one.querySelector(".layers");
      layers.style.width = layers.style.height = `${100 * zoom}%`;
      one.classList.toggle("zoomed", zoom > 1);
    }
    pane.scrollLeft = (x * zoom) / before - pane.clientWidth / 2;
    pane.scrollTop = (y * zoom) / before - pane.clientHeight / 2;
    follow(pane);
  };
  for (const button of root.querySelectorAll("[data-zoom]")) {
    button.onclick = () => setZoom(Number(button.dataset.zoom), panes[0]);
  }
  for (const pane of panes) {
    bindPane(root, pane, (factor) => setZoom(factor, pane), () => zoom);
    pane.onscroll = () => follow(pane); // all panes show the same part of the film
  }
}

function bindPane(root, pane, setZoom, zoom) {
  const keys = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 0 };
  pane.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in keys) setZoom(keys[event.key]);
    else if (event.key.toLowerCase() === "h") root.querySelector("[data-heat]").click();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  pane.ondblclick = () => setZoom(zoom() > 1 ? 0 : 2.5);
  bindDrag(pane);
}

function bindDrag(pane) {
  pane.onpointerdown = (event) => {
    if (event.pointerType !== "mouse" || event.button !== 0) return; // fingers scroll by themselves
    pane.setPointerCapture(event.pointerId);
    pane.onpointermove = (move) => pane.scrollBy(-move.movementX, -move.movementY);
  };
  pane.onpointerup = pane.onpointercancel = () => (pane.onpointermove = null);
}
