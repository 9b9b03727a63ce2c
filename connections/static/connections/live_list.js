/** Update the live columns of the list of connections, but not its rows. */

const EVERY_MS = 3000;
const cells = [...document.querySelectorAll("[data-live]")];
const ids = [...new Set(cells.map((cell) => cell.dataset.id))];

async function refresh() {
  if (!document.hidden) {
    try {
      const response = await fetch(`live/?${new URLSearchParams(ids.map((id) => ["id", id]))}`);
      if (response.ok) show((await response.json()).rows);
    } catch {
      // The next refresh makes up for it.
    }
  }
  setTimeout(refresh, EVERY_MS);
}

function show(rows) {
  for (const cell of cells) {
    const text = rows[cell.dataset.id]?.[cell.dataset.live];
    if (text !== undefined && text !== cell.textContent) cell.textContent = text;
  }
}

if (ids.length) setTimeout(refresh, EVERY_MS);
