"use strict";
const all = (selector, root) => [...(root || document).querySelectorAll(selector)];

// A table is sorted by the column whose head is pressed; the second time the other way round.
for (const table of all("table")) {
  const heads = all("thead th", table), body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  heads.forEach((head, column) => {
    if (!head.textContent.trim()) return;
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = row => {
        const cell = row.cells[column];
        return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
      };
      const unknown = value => value === "–" || value === "";
      const rows = [...body.rows].map(row => [key(row), row]);
      rows.sort(([one], [other]) => {
        if (unknown(one) || unknown(other)) return unknown(one) - unknown(other);  // last, either way round
        const order = typeof one === "number" && typeof other === "number"
          ? one - other : String(one).localeCompare(String(other), "en", {numeric: true});
        return down ? -order : order;
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}

// A table wider than its place says that it scrolls.
const scrolls = new ResizeObserver(entries => {
  for (const {target} of entries)
    target.parentElement.classList.toggle("more", target.scrollWidth > target.clientWidth + 1);
});
all(".scroll").forEach(one => scrolls.observe(one));

// The trade-off: which axis, and which budget on it.
const inUnit = {
  ms: value => value.toPrecision(3) + " ms",
  bytes: value => value >= 1e6 ? (value / 1e6).toPrecision(3) + " MB" : (value / 1e3).toPrecision(3) + " kB",
  count: value => {
    const [size, name] = [[1e9, " G"], [1e6, " M"], [1e3, " k"], [1, ""]].find(([size]) => value >= size) || [1, ""];
    return (value / size).toPrecision(3) + name;
  },
};
for (const chart of all(".trade-off")) {
  const axis = chart.querySelector(".axis"), budget = chart.querySelector(".budget");
  const within = chart.querySelector(".within"), figures = all(".figure", chart);
  chart.querySelector(".controls").hidden = false;
  const others = chart.querySelector(".switch input");
  const apply = () => {
    if (others) {
      const there = figures.map(figure => all(".optional", figure));
      there.flat().forEach(mark => mark.classList.toggle("off", !others.checked));
      others.disabled = !there[axis.value].length;
    }
    const figure = figures[axis.value];
    figures.forEach(one => { one.hidden = one !== figure; });
    const marks = all("[data-x]", figure), values = marks.map(mark => Number(mark.dataset.x));
    const low = Math.min(...values), high = Math.max(...values), share = budget.value / 1000;
    const limit = low > 0 ? low * (high / low) ** share : low + (high - low) * share;
    marks.forEach((mark, i) => mark.classList.toggle("over", values[i] > limit * (1 + 1e-9)));
    const seen = all(":scope > .wide-only [data-x]", figure);
    const inside = seen.filter(mark => !mark.classList.contains("over")).length;
    const text = (inUnit[figure.dataset.unit] || (value => value.toPrecision(3)))(limit);
    within.textContent = share === 1 ? "no limit" : `≤ ${text}: ${inside} of ${seen.length}`;
    budget.setAttribute("aria-valuetext", within.textContent);
    budget.disabled = !seen.length;
  };
  axis.addEventListener("change", () => { budget.value = 1000; apply(); });
  budget.addEventListener("input", apply);
  if (others) others.addEventListener("change", apply);
  apply();
}

// What is known of a mark, beside it, for the mouse and for the keyboard.
const tip = document.getElementById("tip");
const tips = new Map(all(".trade-off").map(one => [one, JSON.parse(one.querySelector(".tips").textContent)]));
function tell(event) {
  const mark = event.target.closest && event.target.closest("[data-tip]");
  if (!mark) { tip.hidden = true; return; }
  tip.replaceChildren(...tips.get(mark.closest(".trade-off"))[mark.dataset.tip].map(line => {
    const part = document.createElement("div");
    part.textContent = line;
    return part;
  }));
  tip.hidden = false;
  const at = mark.getBoundingClientRect(), own = tip.getBoundingClientRect();
  const left = Math.max(6, Math.min(at.left + at.width / 2 - own.width / 2, innerWidth - own.width - 6));
  const above = at.top - own.height - 8;
  tip.style.left = left + scrollX + "px";
  tip.style.top = (above > 6 ? above : at.bottom + 8) + scrollY + "px";
}
for (const kind of ["mouseover", "focusin"]) document.addEventListener(kind, tell);
document.addEventListener("focusout", () => { tip.hidden = true; });
document.addEventListener("keydown", event => { if (event.key === "Escape") tip.hidden = true; });
