// Opens a page in Chromium: with and without JavaScript, narrow and wide, light and dark. Prints its findings as one line
// of JSON. The page of `status` is also watched until it refreshes itself; the page of `report` does not. Arguments: the
// folder with node_modules, the path of Chromium, the URL of the page, and a file for a screenshot.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [tools, executablePath, url, screenshot] = process.argv.slice(2);
const require = createRequire(`${tools}/package.json`);
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const looks = [];
for (const javaScriptEnabled of [true, false]) {
  for (const colorScheme of ["light", "dark"]) {
    for (const width of [390, 1280]) {
      looks.push(await look({ javaScriptEnabled, colorScheme, viewport: { width, height: 900 } }));
    }
  }
}
const refreshed = new URL(url).protocol === "file:" ? null : await refresh();
if (screenshot) await shoot();
await browser.close();
console.log(JSON.stringify({ looks, refreshed }));

/** Opens the page; whatever the browser complains about, and every address that it asks, is kept. */
async function open(options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const [complaints, asked] = [[], []];
  page.on("console", (line) => complaints.push(line.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => asked.push(request.url()));
  await page.goto(url);
  return { context, page, complaints, asked };
}

async function look(options) {
  const { context, page, complaints, asked } = await open(options);
  const heading = await page.locator("h1").innerText();
  await page.evaluate(() => document.querySelectorAll("details").forEach((details) => { details.open = true; }));
  const ground = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  const hint = await page.getByText("Reload the page to bring it up to date.").isVisible();
  let findings = null; // axe needs JavaScript
  if (options.javaScriptEnabled) {
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => axe.run({ resultTypes: ["violations"] }));
    findings = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(" ")}`);
  }
  await context.close();
  const { javaScriptEnabled, colorScheme, viewport } = options;
  const what = `${colorScheme}, ${viewport.width} px, ${javaScriptEnabled ? "with" : "without"} JavaScript`;
  return { what, heading, ground, overflow, hint, findings, complaints, asked };
}

/** Whether the page comes up to date by itself, and what somebody marks to copy it stays marked. */
async function refresh() {
  const { context, page, complaints } = await open({});
  const facts = () => page.locator("#verdict p").first().innerText();
  const marked = () => page.evaluate(() => getSelection().toString());
  await page.evaluate(() => getSelection().selectAllChildren(document.querySelector("#problems, #plots")));
  const [before, copied] = [await facts(), await marked()];
  const deadline = Date.now() + 60_000;
  while ((await facts()) === before && Date.now() < deadline) await new Promise((done) => setTimeout(done, 100));
  const result = { changed: (await facts()) !== before, kept: copied !== "" && (await marked()) === copied, complaints };
  await context.close();
  return result;
}

async function shoot() {
  const { context, page } = await open({ colorScheme: "light", viewport: { width: 1000, height: 1000 } });
  await page.screenshot({ path: screenshot });
  await context.close();
}
