// Looks at the report and at the page of `serve`: takes pictures, and asserts what must hold whatever is on them.
import { createRequire } from "node:module";
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const tools = createRequire(join(process.env.PARALOOM_BROWSER, "package.json"));
const { chromium } = tools("playwright-core");
const axe = readFileSync(tools.resolve("axe-core/axe.min.js"), "utf8");
const [pictures, report, address, several] = process.argv.slice(2);

const faults = [];
const check = (holds, what) => holds || faults.push(what);

const WIDTHS = [1280, 390];
const SCHEMES = ["light", "dark"];
// A report has one file's worth of room.
const MOST_BYTES = 1 << 20;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  // The sandbox needs rights that root in a container does not have; only our own pages are opened.
  args: ["--no-sandbox", "--disable-dev-shm-usage"],
});

/// A tab whose every message, dialog and outside request is a fault.
async function open(url, name, options) {
  const context = await browser.newContext({ deviceScaleFactor: 1, ...options });
  const tab = await context.newPage();
  // The browser itself reports answers of 4xx, which some steps below ask for.
  const expected = (text) => options.refusals && text.includes("the server responded with a status of 4");
  tab.on("console", (said) => check(expected(said.text()), `${name}: the console says: ${said.text()}`));
  tab.on("pageerror", (error) => faults.push(`${name}: the page throws: ${error}`));
  tab.on("dialog", (dialog) => { faults.push(`${name}: a dialog: ${dialog.message()}`); dialog.dismiss(); });
  const own = new URL(url);
  tab.on("request", (request) => {
    const to = new URL(request.url());
    const inside = ["data:", "blob:"].includes(to.protocol) || (to.protocol === own.protocol && to.host === own.host);
    check(inside, `${name}: it asks ${request.url()}`);
  });
  await tab.goto(url, { waitUntil: "load" });
  return tab;
}

/// Beyond the page's policy, which forbids what is needed to look.
async function look(tab, expression) {
  const session = await tab.context().newCDPSession(tab);
  const said = await session.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
  await session.detach();
  if (said.exceptionDetails) throw new Error(said.exceptionDetails.exception?.description ?? said.exceptionDetails.text);
  return said.result.value;
}

async function assertSound(tab, name) {
  const { wide, client, culprits } = await look(tab, `(() => {
    const client = document.documentElement.clientWidth;
    const inside = (element) => { // of something that scrolls by itself
      for (let at = element.parentElement; at; at = at.parentElement)
        if (getComputedStyle(at).overflowX !== "visible") return true;
      return false;
    };
    const culprits = [...document.body.querySelectorAll("*")]
      .filter((element) => element.getBoundingClientRect().right > client + 1 && !inside(element))
      .slice(0, 3).map((element) => element.outerHTML.slice(0, 120));
    return { wide: document.documentElement.scrollWidth, client, culprits };
  })()`);
  check(wide <= client, `${name}: it is ${wide} px wide on a screen of ${client}: ${culprits.join(" | ")}`);
  const squeezed = await look(tab, `[...document.body.querySelectorAll("*")].filter((element) => {
    for (let at = element; at; at = at.parentElement) // for screen readers alone
      if (getComputedStyle(at).clipPath !== "none") return false;
    const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join("");
    const { width, height } = element.getBoundingClientRect();
    return text.length > 12 && width > 2 && width < 28 && height > width;
  }).slice(0, 3).map((element) => element.outerHTML.slice(0, 120))`);
  check(squeezed.length === 0, `${name}: a text has a letter in each line: ${squeezed.join(" | ")}`);
  await look(tab, axe);
  const found = await look(tab, `axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) =>
    violations.filter(({ impact }) => impact === "serious" || impact === "critical")
      .map(({ id, help, nodes }) => id + ": " + help + ": " + nodes.slice(0, 3).map(({ html, any }) => html.slice(0, 120) + " " + (any[0]?.message ?? "")).join(" | ")))`);
  found.forEach((what) => faults.push(`${name}: axe: ${what}`));
}

const picture = (tab, name) => tab.screenshot({ path: join(pictures, `${name}.png`), fullPage: true });

async function lookAtReport() {
  const url = pathToFileURL(report).href;
  check(statSync(report).size <= MOST_BYTES, `report: it has ${statSync(report).size} bytes`);
  for (const width of WIDTHS) {
    for (const colorScheme of SCHEMES) {
      const name = `report-${width}-${colorScheme}`;
      const tab = await open(url, name, { viewport: { width, height: 900 }, colorScheme });
      await assertSound(tab, name);
      await picture(tab, name);
      if (width === WIDTHS[0] && colorScheme === "light") {
        await tab.screenshot({ path: join(pictures, "report-first-screen.png") });
        await tab.pdf({ path: join(pictures, "report.pdf"), format: "A4", printBackground: true });
      }
      await tab.context().close();
    }
  }
}

const HOSTILE = ["W".repeat(400), "<script>alert(1)</script>", "المبيعات 12 \u202e in June", "Sales rose 4 percent at Ironwood in June."];

async function lookAtPage() {
  for (const width of WIDTHS) {
    for (const colorScheme of SCHEMES) {
      const name = `page-${width}-${colorScheme}`;
      const tab = await answered(address, name, width, colorScheme);
      await tab.context().close();
    }
  }
}

/// A page before and after it was asked about hostile texts, sound both times.
async function answered(at, name, width, colorScheme) {
  const tab = await open(at, name, { viewport: { width, height: 900 }, colorScheme });
  await assertSound(tab, `${name}-empty`);
  await picture(tab, `${name}-empty`);
  await tab.locator("textarea").first().fill(HOSTILE.join("\n"));
  await byKeyboard(tab, name);
  await assertSound(tab, name);
  await picture(tab, name);
  return tab;
}

/// From the text to the results without a mouse.
async function byKeyboard(tab, name) {
  await tab.locator("textarea").first().focus();
  await tab.keyboard.press("Control+Enter");
  await tab.locator("#results table, #results article").first().waitFor({ timeout: 20000 })
    .catch(() => faults.push(`${name}: Ctrl+Enter brings no results`));
}

/// What the script of the page adds.
async function withScripts() {
  const name = "page-with-scripts";
  const viewport = { width: 1280, height: 900 };
  const tab = await open(`${address}#source=Sales+rose+4+percent+at+Ironwood+in+June.`, name, { viewport, refusals: true });
  const text = tab.locator("textarea").first();
  check((await text.inputValue()) === "Sales rose 4 percent at Ironwood in June.", `${name}: a link does not fill in the form`);
  await byKeyboard(tab, name);
  check(await tab.locator("#results:focus").count(), `${name}: the results do not get the focus`);

  // A threshold that is moved judges again, and asks nobody.
  let requests = 0;
  tab.on("request", () => requests++);
  const verdicts = () => tab.locator(".verdict").allTextContents();
  const slider = tab.locator(".slider input").first();
  await slider.focus();
  await tab.keyboard.press("Home");
  const [before, lowered] = [await verdicts(), await tab.locator("#summary").textContent()];
  await slider.evaluate((slider) => {
    slider.max = 6;
    slider.value = 6;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  });
  const after = await verdicts();
  check(before.length > 0 && after.every((verdict) => verdict === "rejected"), `${name}: the threshold judges ${before} and then ${after}`);
  check((await tab.locator("#summary").textContent()) !== lowered || !before.includes("kept"), `${name}: the summary stays ${lowered}`);
  check((await tab.locator(".reason").first().textContent()).includes("is below 6"), `${name}: the reason is not told`);
  check(requests === 0, `${name}: a threshold needs ${requests} requests`);

  const [saved] = await Promise.all([tab.waitForEvent("download"), tab.locator("#download").click()]);
  const csv = readFileSync(await saved.path(), "utf8");
  check(csv.startsWith("source,") && csv.split("\r\n").length > 2, `${name}: the file begins ${csv.slice(0, 80)}`);

  // A file of more rows than a request takes, with what CSV quotes.
  const rows = Array.from({ length: 130 }, (_, at) => `"Sales, it says, rose ${at} ""percent""."`);
  const file = { name: "rows.csv", mimeType: "text/csv", buffer: Buffer.from(`\ufeffid,Source\r\n${rows.map((row, at) => `${at},${row}`).join("\r\n")}\r\n`) };
  await tab.locator("#file").setInputFiles(file);
  for (let tries = 0; tries < 50 && (await text.inputValue()).split("\n").length !== 130; tries++) await tab.waitForTimeout(100);
  check((await text.inputValue()).startsWith('Sales, it says, rose 0 "percent".\n'), `${name}: the file is read as ${(await text.inputValue()).slice(0, 60)}`);
  await tab.locator("button[type=submit]").click();
  await tab.locator("#results article").nth(129).waitFor({ timeout: 40000 }).catch(() => faults.push(`${name}: more rows than a request takes do not come back`));

  // A request that takes its time can be given up.
  await tab.route("**/", () => {});
  await tab.locator("button[type=submit]").click();
  check(await tab.locator("button[type=submit]").isDisabled(), `${name}: one can send twice`);
  await tab.keyboard.press("Escape");
  await tab.locator("#status", { hasText: "Cancelled" }).waitFor({ timeout: 5000 }).catch(() => faults.push(`${name}: Escape does not cancel`));
  check(!(await tab.locator("button[type=submit]").isDisabled()), `${name}: one cannot send again`);
  await tab.context().close();
}

/// As a plain form.
async function withoutScripts() {
  const name = "page-without-scripts";
  const tab = await open(address, name, { viewport: { width: 1280, height: 900 }, javaScriptEnabled: false });
  let presses = 0;
  const focused = () => tab.locator("textarea:focus").count();
  while (!(await focused()) && presses++ < 20) await tab.keyboard.press("Tab");
  check(await focused(), `${name}: the text cannot be reached by Tab`);
  await tab.keyboard.type("Sales rose 4 percent at Ironwood in June.");
  presses = 0;
  const onButton = () => tab.locator("button[type=submit]:focus").count();
  while (!(await onButton()) && presses++ < 30) await tab.keyboard.press("Tab");
  check(await onButton(), `${name}: the button cannot be reached by Tab`);
  await Promise.all([tab.waitForLoadState("load"), tab.keyboard.press("Enter")]);
  await tab.locator("#results table, #results article").first().waitFor({ timeout: 20000 })
    .catch(() => faults.push(`${name}: the form brings no results`));
  await picture(tab, name);
  await tab.context().close();

  const long = await open(address, name, { viewport: { width: 1280, height: 900 }, javaScriptEnabled: false, refusals: true });
  await long.locator("textarea").first().evaluate((area) => (area.value = "too long\n".repeat(80000)));
  await Promise.all([long.waitForLoadState("load"), long.locator("button[type=submit]").click()]);
  await long.locator(".problem").waitFor({ timeout: 20000 }).catch(() => faults.push(`${name}: a form that is too long is not answered by the page`));
  await long.context().close();
}

/// Three models side by side: columns on a wide screen, cards below each other on a narrow one.
async function lookAtModels() {
  for (const width of WIDTHS) {
    for (const colorScheme of SCHEMES) {
      const name = `models-${width}-${colorScheme}`;
      const tab = await answered(several, name, width, colorScheme);
      const places = await tab.locator("article").last().locator("section").evaluateAll((sections) =>
        sections.map((section) => section.getBoundingClientRect()).map(({ left, top }) => [Math.round(left), Math.round(top)]));
      const [lefts, tops] = [0, 1].map((at) => new Set(places.map((place) => place[at])).size);
      check(places.length === 3 && (width > 600 ? lefts === 3 && tops === 1 : lefts === 1 && tops === 3), `${name}: the models stand at ${JSON.stringify(places)}`);
      await tab.context().close();
    }
  }
  const name = "models";
  const tab = await open(`${several}#source=Sales+rose+4+percent.&model=t5p&model=base`, name, { viewport: { width: 1280, height: 900 } });
  const ticked = () => tab.locator("input[name=model]:checked").evaluateAll((boxes) => boxes.map((box) => box.value).join(" "));
  check((await ticked()) === "base t5p", `${name}: a link chooses ${await ticked()}`);
  await byKeyboard(tab, name);
  check((await tab.locator("#results h4").allTextContents()).join(" ") === "base t5p", `${name}: not the models that were chosen`);
  // One slider judges all that it is of.
  const slider = tab.locator(".slider input").first();
  await slider.evaluate((slider) => {
    slider.max = 6;
    slider.value = 6;
    slider.dispatchEvent(new Event("input", { bubbles: true }));
  });
  const summary = await tab.locator("#summary").textContent();
  check(/^base: 0 kept, \d+ rejectedt5p: 0 kept, \d+ rejected$/.test(summary), `${name}: the summary is ${summary}`);
  const [saved] = await Promise.all([tab.waitForEvent("download"), tab.locator("#download").click()]);
  const csv = readFileSync(await saved.path(), "utf8");
  check(csv.split("\r\n")[0].includes("model") && csv.includes("base") && csv.includes("t5p"), `${name}: the file is ${csv.slice(0, 200)}`);
  for (const box of await tab.locator("input[name=model]").all()) await box.uncheck();
  await tab.locator("button[type=submit]").click();
  await tab.locator("#status", { hasText: "Choose a model" }).waitFor({ timeout: 5000 }).catch(() => faults.push(`${name}: nothing is said without a model`));
  await tab.context().close();

  const plain = await open(several, name, { viewport: { width: 1280, height: 900 }, javaScriptEnabled: false });
  await plain.locator("textarea").first().fill("Sales rose 4 percent.");
  await plain.locator("input[name=model][value=base]").uncheck();
  await Promise.all([plain.waitForLoadState("load"), plain.locator("button[type=submit]").click()]);
  await plain.locator("#results article").first().waitFor({ timeout: 20000 }).catch(() => faults.push(`${name}: the form brings no results`));
  check((await plain.locator("#results h4").allTextContents()).join(" ") === "t5p custom", `${name}: without scripts, not the models that were chosen`);
  check((await plain.locator("input[name=model]:checked").count()) === 2, `${name}: the choice is forgotten`);
  await plain.context().close();
}

await lookAtReport();
if (address) {
  await lookAtPage();
  await withScripts();
  await withoutScripts();
}
if (several) await lookAtModels();
await browser.close();
faults.forEach((fault) => console.error(fault));
if (faults.length > 0) {
  console.error(`${faults.length} faults`);
  process.exit(1);
}
console.log("the report and the page are sound");
