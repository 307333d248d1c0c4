// In: the table as HTML, the number of the film that is shown. Out: the table; a click on a name asks for that film.
export default function ({ data, parentElement, setTriggerValue }) {
  const root = parentElement.querySelector(".root");
  if (root.dataset.id !== data.id) {
    root.dataset.id = data.id;
    root.innerHTML = data.html;
    parentElement.querySelector(".heard").textContent = data.said;
  }
  for (const button of root.querySelectorAll("button")) {
    button.toggleAttribute("aria-current", button.dataset.film === data.shown);
    button.onclick = () => setTriggerValue("film", button.dataset.film);
  }
}
