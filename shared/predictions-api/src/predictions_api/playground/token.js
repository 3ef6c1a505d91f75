// Asks for the token once, and keeps it until the tab is closed.

const dialog = document.querySelector("#token");
let asked = null;

export const token = () => sessionStorage.getItem("token");

/** Return when there is a token that is not `refused`. */
export function askToken(refused) {
  if (token() !== refused) return Promise.resolve();
  if (refused) dialog.querySelector("#token-help").textContent = "The server refused this token. Give another one.";
  asked ??= new Promise(resolve => {
    dialog.oncancel = event => event.preventDefault();
    dialog.onclose = () => {
      sessionStorage.setItem("token", dialog.querySelector("input").value.trim());
      dialog.querySelector("input").value = "";
      asked = null;
      resolve();
    };
    dialog.showModal();
  });
  return asked;
}
