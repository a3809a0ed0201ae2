
"use strict";
const articles = [...document.querySelectorAll("article")];
const columns = [...new Set([...articles[0].querySelectorAll("[data-column]")].map((input) => input.dataset.column))];
const rater = document.getElementById("rater");
const place = `retune-sheet-${document.body.dataset.sheet}`;
let saved = true;

// Of one row: what is chosen or written, by column.
function ratingOf(article) {
  const given = [...article.querySelectorAll("[data-column]")].filter((input) => input.type !== "radio" || input.checked);
  return Object.fromEntries(given.map((input) => [input.dataset.column, input.value]));
}

function isRated(article) {
  return "better" in ratingOf(article);
}

function fill(article, rating) {
  for (const input of article.querySelectorAll("[data-column]")) {
    const value = rating[input.dataset.column] ?? "";
    if (input.type === "radio") input.checked = input.value === value;
    else input.value = value;
  }
}

function show() {
  for (const article of articles) article.classList.toggle("rated", isRated(article));
  const done = articles.filter(isRated).length;
  document.getElementById("done").value = done;
  document.getElementById("progress").textContent = `${done} of ${articles.length} rated`;
}

// Pages opened from a disk may be refused a storage: then the rater is told.
function keep() {
  const ratings = Object.fromEntries(articles.map((article) => [article.dataset.item, ratingOf(article)]));
  try {
    localStorage.setItem(place, JSON.stringify({ rater: rater.value, ratings }));
  } catch {
    document.getElementById("forgetful").hidden = false;
  }
}

function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(place) ?? "{}");
    rater.value = kept.rater ?? "";
    for (const article of articles) fill(article, kept.ratings?.[article.dataset.item] ?? {});
  } catch {
    document.getElementById("forgetful").hidden = false;
  }
}

function changed() {
  saved = false;
  keep();
  show();
}

// Two who rate on one computer: the second one must not begin with what the first one said.
function another() {
  if (!confirm("Take all ratings off this page, for another rater? Save them before.")) return;
  rater.value = "";
  for (const article of articles) fill(article, {});
  changed();
  saved = true;
}

function goOn(from) {
  const start = articles.indexOf(from) + 1;
  const next = [...articles.slice(start), ...articles.slice(0, start)].find((article) => !isRated(article));
  next?.focus();
  next?.scrollIntoView();
}

// A note that begins like a formula gets an apostrophe, and so does a sign where a spreadsheet may part cells: as in sheet.csv.
function cell(value) {
  const text = value.replace(/([;\t][\s"]*)(?=[=+\-@＝＋－＠])/gu, "$1'").replace(/^(?=\s*[=+\-@＝＋－＠])/u, "'");
  return `"${text.replaceAll('"', '""')}"`;
}

function csv() {
  const lines = articles.map((article) => {
    const rating = ratingOf(article);
    return [article.dataset.item, ...columns.map((column) => rating[column] ?? "")];
  });
  return "\ufeff" + [["item", ...columns], ...lines].map((line) => line.map(cell).join(",") + "\r\n").join("");
}

function save(event) {
  event.preventDefault();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = `${rater.value}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  saved = true;
}

const KEYS = { a: "A", b: "B", s: "same" };

function key(event) {
  const article = event.target.closest("article");
  const writing = event.target.matches("input:not([type=radio])");
  if (!article || writing || event.ctrlKey || event.metaKey || event.altKey) return;
  const pressed = event.key.toLowerCase();
  if (pressed === "n") goOn(article);
  else if (pressed in KEYS) {
    article.querySelector(`[data-column=better][value=${KEYS[pressed]}]`).checked = true;
    changed();
  } else return;
  event.preventDefault();
}

recall();
show();
document.addEventListener("input", changed);
document.addEventListener("keydown", key);
document.getElementById("bar").addEventListener("submit", save);
document.getElementById("next").addEventListener("click", () => goOn(null));
document.getElementById("another").addEventListener("click", another);
for (const button of document.querySelectorAll(".clear")) {
  button.addEventListener("click", () => {
    fill(button.closest("article"), {});
    changed();
  });
}
addEventListener("beforeunload", (event) => {
  if (!saved && !document.getElementById("forgetful").hidden) event.preventDefault();
});
