// A hook for React over client.js, without other dependencies.
// SPDX-License-Identifier: MIT
//
//     import { useChat } from "http://127.0.0.1:3000/api/v1/react.js";   // "react" from your import map or bundler
//
//     function Chat() {
//       const { messages, status, send, stop } = useChat({ model: "tiny-chat", conversation: "new" });
//       return (
//         <>
//           {messages.map((message, index) => <p key={index}>{message.role}: {message.content}</p>)}
//           <button onClick={() => send("Hi!")} disabled={status !== "ready"}>Send</button>
//           <button onClick={stop}>Stop</button>
//         </>
//       );
//     }

import { useCallback, useEffect, useMemo, useRef, useState } from "react";
import { Client } from "./client.js";

/**
 * Hold a conversation: `messages` grows while an answer comes.
 *
 * `options` are those of a request, of which the last ones count, and `client`, a `Client`. With a `conversation`, the
 * server keeps it ("new": it makes the id, returned as `conversation`), and only new messages are sent; without one,
 * all of them are. `status` is "ready", or the type of the last event of the running answer; `progress` is its
 * `progress`; `error` is that of the last answer, which is then not among the messages. An assistant's message has
 * `content`, `thoughts` and `calls`; to answer calls, send `{role: "tool", call: id, content}`, or an array of those.
 */
export function useChat({ client, conversation: wanted = null, ...options } = {}) {
  const fallback = useMemo(() => client ?? new Client(), [client]);
  const [messages, setMessages] = useState([]);
  const [conversation, setConversation] = useState(wanted);
  const [state, setState] = useState({ status: "ready", progress: null, usage: null, error: null });
  const running = useRef(null);
  const latest = useRef(null);
  latest.current = { client: fallback, messages, conversation, options };

  const stop = useCallback(() => running.current?.abort(), []);
  useEffect(() => stop, [stop]);

  const send = useCallback(async (said) => {
    if (running.current !== null) throw new Error("an answer is being written; stop it first");
    const { client: server, messages: before, conversation: id, options: parameters } = latest.current;
    const added = (Array.isArray(said) ? said : [said]).map(
      (one) => (typeof one === "string" ? { role: "user", content: one } : one),
    );
    const controller = new AbortController();
    running.current = controller;
    const answer = { role: "assistant", content: "", thoughts: "", calls: [] };
    let named = id;
    const show = () => setMessages([...before, ...added, { ...answer, calls: [...answer.calls] }]);
    const request = { ...parameters, ...(id === null ? {} : { conversation: id }) };
    request.messages = id === null ? [...before.map(sendable), ...added] : added;
    setState({ status: "queued", progress: null, usage: null, error: null });
    show();
    try {
      for await (const event of server.chat(request, { signal: controller.signal })) {
        if (event.type === "text") answer.content += event.text;
        else if (event.type === "thoughts") answer.thoughts += event.text;
        else if (event.type === "call") answer.calls.push({ id: event.id, name: event.name, arguments: event.arguments });
        if (event.conversation) named = event.conversation;
        if (["text", "thoughts", "call"].includes(event.type)) show();
        setState((old) => ({
          ...old, status: event.type, progress: event.progress ?? null,
          usage: event.type === "usage" ? event : old.usage,
        }));
      }
      setConversation(named);
      setState((old) => ({ ...old, status: "ready", progress: null }));
    } catch (error) {
      const stopped = controller.signal.aborted;
      // The server does the same with a conversation that it keeps.
      if (stopped && (answer.content !== "" || answer.calls.length > 0)) setConversation(named);
      else setMessages(before);
      setState((old) => ({ ...old, status: "ready", progress: null, error: stopped ? null : error }));
    } finally {
      running.current = null;
    }
    return answer;
  }, []);

  return { messages, conversation, send, stop, ...state };
}

function sendable({ thoughts, calls, ...message }) {
  return { ...message, ...(thoughts ? { thoughts } : {}), ...(calls?.length ? { calls } : {}) };
}
