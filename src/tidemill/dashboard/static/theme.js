// Runs before the page is drawn, so that it never flashes in the other theme.
(() => {
  let kept = "system";
  try { kept = localStorage.getItem("tidemill-theme") || "system"; } catch {}
  if (kept !== "system") document.documentElement.dataset.theme = kept;
})();
