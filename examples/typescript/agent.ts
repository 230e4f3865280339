// An agent that outlives its process, by nothing but fetch. Node 22.18 or newer runs it as it is:
//
//     coatcheck sidecar &
//     node examples/typescript/agent.ts order-4711 http://127.0.0.1:9000/charges
//
// Kill it at any moment, even by `kill -9`, and run the same line again.

const [run, shop] = process.argv.slice(2);
const base = process.env.COATCHECK_PROXY_URL ?? "http://127.0.0.1:7070";
const headers: Record<string, string> = { "Content-Type": "application/json" };

async function ask(what: string, body: object): Promise<any> {
  const url = new URL(`/v1/runs/${run}/${what}`, base);
  const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(body) });
  const told: any = await answer.json();
  if (!answer.ok) throw new Error(`${told.code}: ${told.detail}`);
  return told;
}

// It leaves only if this process still owns the run, and once: the key names it for good.
async function charge(ref: string, cents: number): Promise<any> {
  const order = { ref, cents };
  const call = await ask("calls", { tool: "charge", effect: "once", key: ref, arguments: order });
  if (call.decision === "replay") return call.result;
  const answer = await fetch(shop, { method: "POST", headers, body: JSON.stringify(order) });
  const result = await answer.json();
  await ask(`calls/${call.call}/outcome`, { attempt: call.attempt, result });
  return result;
}

const opened = await ask("open", { replace: true }); // the process that had the run is dead
headers["Coatcheck-Token"] = opened.token;
const state: { receipts: any[] } = opened.state ?? { receipts: [] };
for (let step: number = opened.step; step <= 3; step++) {
  console.log(`step ${step}`);
  state.receipts.push(await charge(`${run}/${step}`, 100 * step));
  await ask("commit", { step, state }); // durable when it returns: the step is over
}
await ask("finish", { result: state.receipts });
console.log(`${state.receipts.length} charges in all.`);
