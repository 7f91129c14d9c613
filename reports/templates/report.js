"use strict";
// Convenience only: the page is complete without it.
(() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const button = (text, action) => {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", () => action(made));
    return made;
  };
  const flash = (target, text) => {
    const before = target.textContent;
    target.textContent = text;
    setTimeout(() => { target.textContent = before; }, 1500);
  };
  const copy = (text, target) =>
    navigator.clipboard.writeText(text).then(() => flash(target, "Copied"), () => flash(target, "Select and copy it yourself"));

  // Tables: a click on a column's name sorts by it, numbers by their exact value.
  const value = (row, column) => {
    const cell = row.cells[column];
    if (!cell.classList.contains("n")) return cell.textContent;
    const number = Number.parseFloat((cell.title || cell.textContent).replaceAll(",", "").replace("−", "-"));
    return Number.isNaN(number) ? -Infinity : number;
  };
  const sort = (table, column, heads) => {
    const rising = heads[column].getAttribute("aria-sort") === "descending";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", rising ? "ascending" : "descending");
    const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b)));
    const rows = [...table.tBodies[0].rows].map((row, place) => [value(row, column), place, row]);
    rows.sort((a, b) => (rising ? order(a[0], b[0]) : order(b[0], a[0])) || a[1] - b[1]);
    table.tBodies[0].append(...rows.map((row) => row[2]));
  };
  all("table[data-sortable]").forEach((table) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const made = button(head.textContent, () => sort(table, column, heads));
      head.replaceChildren(made);
    });
  });

  // Copying, and opening everything at once.
  all("[data-copy]").forEach((block) => block.after(button("Copy", (target) => copy(block.textContent, target))));
  all("[data-tools]").forEach((place) => {
    const folds = all("details");
    place.append(button("Open all details", (target) => {
      const open = folds.some((fold) => !fold.open);
      folds.forEach((fold) => { fold.open = open; });
      target.textContent = open ? "Close all details" : "Open all details";
    }));
    place.hidden = false;
  });

  // The embedded result: does it match its digest?
  const source = document.getElementById("result-json");
  if (!source) return;
  const bytes = async () => {
    if (source.dataset.encoding !== "deflate") return new TextEncoder().encode(source.textContent);
    const packed = Uint8Array.from(atob(source.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const check = document.querySelector("[data-check]");
  const verify = async () => {
    const hash = await crypto.subtle.digest("SHA-256", await bytes());
    const digest = [...new Uint8Array(hash)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const matches = digest === document.querySelector("[data-digest]").textContent;
    check.textContent = matches ? "match: the embedded result is intact" : `MISMATCH: the embedded result has the digest ${digest}`;
    check.classList.add(matches ? "match" : "mismatch");
  };
  verify().catch((error) => { check.textContent = `could not run: ${error.message}`; });
  const tools = document.querySelector("[data-result-tools]");
  tools.append(button("Copy the JSON", async (target) => copy(new TextDecoder().decode(await bytes()), target)));
  tools.hidden = false;
})();
