// Elements from data. Text is only ever set as text, never parsed as HTML.

export const byId = (id) => document.getElementById(id);

/** Make an element: properties by name, `data`/`aria` attributes by object, children as text or nodes. */
export function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || value === null) continue;
    if (name === "on") for (const [event, call] of Object.entries(value)) element.addEventListener(event, call);
    else if (name === "attrs") for (const [key, text] of Object.entries(value)) element.setAttribute(key, text);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const figure = (value, digits = 3) => value.toFixed(digits);

let numbers = 0;
/** A new id, for labels and descriptions. */
export const newId = (name) => `${name}-${(numbers += 1)}`;

/** Say something once to screen readers. */
export function announce(text) {
  const place = byId("announce");
  if (place.textContent !== text) place.textContent = text;
}
