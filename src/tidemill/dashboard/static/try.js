// The try page: a picture file becomes the pixels that the model takes, in the browser, and is shown as the model gets it.
import { say } from "./page.js";

document.addEventListener("change", async (event) => {
  const file = event.target.closest("[data-picture] input[type=file]");
  if (!file?.files.length) return;
  const box = file.closest("[data-picture]");
  try { await read(box, file.files[0]); } catch { say("This file is no picture that the browser can read.", "bad"); }
});

async function read(box, file) {
  const height = Number(box.dataset.height), width = Number(box.dataset.width), channels = Number(box.dataset.channels);
  const picture = await createImageBitmap(file);
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (channels !== 4) { context.fillStyle = "white"; context.fillRect(0, 0, width, height); }
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, width, height);
  const drawn = context.getImageData(0, 0, width, height), pixels = new Uint8Array(width * height * channels);
  for (let i = 0; i < width * height; i++) {
    const [red, green, blue] = drawn.data.subarray(i * 4, i * 4 + 3);
    const grey = Math.round(0.299 * red + 0.587 * green + 0.114 * blue);
    if (channels === 1) { pixels[i] = grey; drawn.data.fill(grey, i * 4, i * 4 + 3); }
    else pixels.set(drawn.data.subarray(i * 4, i * 4 + channels), i * channels);
  }
  context.putImageData(drawn, 0, 0);
  box.querySelector("input[type=hidden]").value = base64(pixels);
  const image = box.querySelector("img");
  image.src = canvas.toDataURL("image/png");
  image.closest("figure").hidden = false;
}

function base64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

// What does not fit is marked at its field.
document.addEventListener("htmx:after:swap", () => {
  const answer = document.getElementById("try-answer");
  const wrong = new Set([...answer.querySelectorAll("[data-wrong]")].map((one) => one.dataset.wrong));
  for (const field of document.querySelectorAll(".try-field")) {
    const given = field.querySelector("[name^='input.']");
    field.classList.toggle("wrong", wrong.has(given?.name.slice("input.".length)));
  }
});
