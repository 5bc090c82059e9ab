// What the pages have in common: elements, numbers and words.
"use strict";

const byId = (id) => document.getElementById(id);

const percent = (probability) => `${(100 * probability).toFixed(1)}%`;

const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

// Has a screen reader say a text.
function announce(text) {
  byId("status").textContent = text;
}

function element(name, attributes, text = "") {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return node;
}

function svgElement(name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}
