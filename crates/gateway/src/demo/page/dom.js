// What the views share.

export const by = (id) => document.getElementById(id);
export const still = matchMedia("(prefers-reduced-motion: reduce)");
export const grouped = new Intl.NumberFormat("en");

export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
