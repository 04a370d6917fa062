// Light, dark, or what the system says.

const NAMES = ["system", "light", "dark"];

function apply(button, name) {
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  button.textContent = `Theme: ${name}`;
}

export function themeButton(button) {
  let name = localStorage.getItem("srr_guard_theme");
  if (!NAMES.includes(name)) name = "system";
  apply(button, name);
  button.addEventListener("click", () => {
    name = NAMES[(NAMES.indexOf(name) + 1) % NAMES.length];
    localStorage.setItem("srr_guard_theme", name);
    apply(button, name);
  });
}
