"""A FastAPI app whose support replies come from a decorated function.

    pip install "srr-guard[local,agents]" fastapi uvicorn
    uvicorn examples.support_app:app
    python examples/support_app.py "Where is my order?"      # without a server

`@srr_guard` calls the function four times for each customer and returns the best safe reply.
FastAPI reads its parameters as before.

It runs on SmolLM2 on this machine, without a key or a network. For a provider's model:

    SRR_GUARD_EXAMPLE_MODEL=openai:gpt-5-mini python examples/support_app.py
"""

import os
import sys

from fastapi import FastAPI
from fastapi.testclient import TestClient
from langchain.chat_models import init_chat_model
from pydantic import BaseModel

from srr_guard import Guard, LocalChatModel, srr_guard

name = os.environ.get("SRR_GUARD_EXAMPLE_MODEL")
tokens = int(os.environ.get("SRR_GUARD_EXAMPLE_TOKENS", "64"))
model = init_chat_model(name) if name else LocalChatModel(max_new_tokens=tokens)

app = FastAPI(title="support")
guard = Guard(n=4)


class Ticket(BaseModel):
    """What a customer wrote."""

    name: str
    message: str


@srr_guard(guard=guard, prompt="message")
def support_reply(message: str, name: str) -> str:
    """Write a reply to a customer."""
    system = f"You are the support of a lamp shop. Reply to {name} in one friendly sentence."
    return model.invoke([("system", system), ("user", message)]).text


@app.post("/reply")
def reply(ticket: Ticket) -> dict:
    """Reply to a ticket."""
    decision = support_reply.decide(ticket.message, name=ticket.name)
    return {"reply": decision.output, "reason": decision.reason}


@app.get("/totals")
def totals() -> dict:
    """Tell how many requests were answered, and how many answers were sampled for them."""
    return guard.totals.model_dump()


def main() -> None:
    """Send one ticket to the app, without a server, and show the reply."""
    message = " ".join(sys.argv[1:]) or "My lamp arrived broken. What do I do now?"
    with TestClient(app) as client:
        answered = client.post("/reply", json={"name": "Ann", "message": message})
        print(f"ticket    {message}")
        print(f"status    {answered.status_code}")
        print(f"reply     {answered.json()['reply']}")
        print(f"reason    {answered.json()['reason']}")
        print(f"totals    {client.get('/totals').json()}")


if __name__ == "__main__":
    main()
