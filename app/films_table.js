// In: the table as HTML, the number of the film that is shown. Out: the table; a click on a name asks for that film.
export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".root");
  if (root.dataset.id !== data.id) {
    root.dataset.id = data.id;
    root.innerHTML = data.html;
    parentElement.querySelector(".heard").textContent = data.spoken;
  }
  for (const button of root.querySelectorAll("button")) {
    const current = button.dataset.film === data.shown;
    button.toggleAttribute("aria-current", current);
    if (current) button.closest("tr").scrollIntoView({ block: "nearest" });
    button.onclick = () => setTriggerValue("film", button.dataset.film);
  }
}
