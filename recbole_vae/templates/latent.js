"use strict";
const which = document.getElementById("which"), step = document.getElementById("step"), shown = document.getElementById("shown");
function show() {
  for (const each of document.querySelectorAll(".list")) each.classList.toggle("on", each.id === `t${which.value}-${step.value}`);
  const value = Number(step.value);
  const size = `${Math.abs(value)} standard deviation${Math.abs(value) === 1 ? "" : "s"}`;
  shown.textContent = value === 0 ? "The user's own place" : `${value > 0 ? "+" : "\u2212"}${size}`;
}
which.addEventListener("change", show);
step.addEventListener("input", show);
show();
