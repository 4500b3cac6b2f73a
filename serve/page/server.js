// Requests to the server; whatever it refuses is a Refusal that knows the control it is about.

const NAMED = /^(seed|temperature|speaker|model) /;
let token = sessionStorage.getItem("token") ?? "";

export class Refusal extends Error {
  constructor(status, detail, wait = 0) {
    super(detail[0].toUpperCase() + detail.slice(1) + (/[.?!]$/.test(detail) ? "" : "."));
    this.status = status;
    this.wait = wait; // s
    if (status === 401) this.control = "token";
    else if (NAMED.test(detail)) this.control = NAMED.exec(detail)[1];
    else this.control = [400, 413, 415, 422].includes(status) ? "sound" : "speak";
  }
}

export function show(secret) {
  token = secret;
  sessionStorage.setItem("token", secret);
}

export const shown = () => token !== "";

/** `fetch` on this server. Throws a Refusal, or AbortError where `options.signal` says so. */
export async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "the server does not answer: is it still running?");
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({}));
  throw new Refusal(
    answer.status,
    problem.detail || `the server answered ${answer.status} ${answer.statusText}`,
    Number(answer.headers.get("Retry-After")) || 0,
  );
}
