"""A chain that answers from a small set of documents: guarded, with its citations kept.

    python examples/rag_chain.py "How long do I have to return a lamp?"

Documents are found once; only the part that asks the model runs once per candidate, so what is
cited is what the chosen answer was made from. A refusal cites nothing.

It runs on SmolLM2 on this machine, without a key or a network. For a provider's model:

    SRR_GUARD_EXAMPLE_MODEL=openai:gpt-5-mini python examples/rag_chain.py
"""

import os
import re
import sys

from langchain.chat_models import init_chat_model
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough

from srr_guard import LocalChatModel, SafetyRanker

name = os.environ.get("SRR_GUARD_EXAMPLE_MODEL")
tokens = int(os.environ.get("SRR_GUARD_EXAMPLE_TOKENS", "64"))
model = init_chat_model(name) if name else LocalChatModel(max_new_tokens=tokens)

DOCUMENTS = [
    Document("A lamp can be returned within 30 days, in its box.", metadata={"source": "returns"}),
    Document("Orders above 40 euros are sent for free.", metadata={"source": "shipping"}),
    Document(
        "Our lamps take bulbs with an E27 socket, up to 60 watts.", metadata={"source": "bulbs"}
    ),
    Document("A repair takes two weeks. We send a box for it.", metadata={"source": "repairs"}),
    Document("The shop in Oslo is open from ten to six.", metadata={"source": "opening"}),
]


def words(text: str) -> set[str]:
    """The words of a text that say something."""
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3}


def retrieve(request: dict) -> list[Document]:
    """Find the two documents that share most words with the question."""
    asked = words(request["question"])
    return sorted(DOCUMENTS, key=lambda d: -len(asked & words(d.page_content)))[:2]


def as_context(request: dict) -> str:
    """Number the documents, so that an answer can cite them."""
    lines = (f"[{i}] {d.page_content}" for i, d in enumerate(request["documents"], 1))
    return "\n".join(lines)


prompt = ChatPromptTemplate.from_messages(
    [
        ("system", "Answer in one sentence from these notes, and cite them as [1].\n{context}"),
        ("user", "{question}"),
    ]
)
answering = SafetyRanker(prompt | model, n=4)


def with_citations(request: dict) -> dict:
    """Put the sources beside the answer; a refusal has none."""
    message = request["message"]
    decided = message.response_metadata["srr_guard"]
    sources = [d.metadata["source"] for d in request["documents"]]
    return {
        "answer": message.text,
        "citations": sources if decided["chosen"] is not None else [],
        "decided": decided,
    }


chain = (
    RunnablePassthrough.assign(documents=retrieve)
    | RunnablePassthrough.assign(context=as_context)
    | RunnablePassthrough.assign(message=answering)
    | RunnableLambda(with_citations)
)


def main() -> None:
    """Ask one question and show the answer with what it was made from."""
    question = " ".join(sys.argv[1:]) or "How long do I have to return a lamp?"
    reply = chain.invoke({"question": question})
    print(f"question  {question}")
    print(f"answer    {reply['answer']}")
    print(f"citations {', '.join(reply['citations']) or 'none'}")
    print(f"reason    {reply['decided']['reason']}, p_safe {reply['decided']['p_safe']}")


if __name__ == "__main__":
    main()
