"""Words that fill the phrasings of the embedded demo shop, and the small talk around them.

Every table is split into train, validation and test: no product, name or opener of the test is in the training rows.
Numbers and dates come from shop.py, the same way for every intent and split.
"""

from typing import NamedTuple


class Parts(NamedTuple):
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def parts(train: str, validation: str, test: str) -> Parts:
    return Parts(*(tuple(word.strip() for word in words.split(",")) for words in (train, validation, test)))


GARMENT = parts(
    "rain jacket, wool sweater, summer dress, winter coat, cotton shirt, pair of jeans, hoodie, black blazer",
    "knitted cardigan, swimsuit, polo shirt, leather jacket",
    "parka, linen blouse, pair of trousers, tracksuit, pleated skirt, fleece vest",
)
DEVICE = parts(
    "coffee machine, hair dryer, vacuum cleaner, blender, hand mixer, toaster",
    "food processor, bluetooth speaker, sandwich maker",
    "microwave, sewing machine, laptop, dehumidifier, treadmill, robot mower",
)
GOODS = parts(
    "desk lamp, bookshelf, garden chair, ceramic vase, wall mirror, suitcase, frying pan, bedside table, dinner set",
    "picture frame, plant pot, shoe rack, teapot",
    "wardrobe, glass bowl, camping stove, wooden stool, chess set, fruit basket, letter box",
)


def joined(*tables: Parts) -> Parts:
    return Parts(*(sum(column, ()) for column in zip(*tables, strict=True)))


SLOTS: dict[str, Parts] = {
    "garment": GARMENT,
    "device": DEVICE,
    "thing": joined(GOODS, DEVICE),
    "item": joined(GOODS, DEVICE, GARMENT),
    "parcel": parts("parcel, package, order, shipment", "box, delivery", "packet, delivery box"),
    "courier": parts("courier, driver, delivery man", "postman, delivery service", "carrier, parcel guy"),
    "broken": parts(
        "broken, cracked, badly scratched, in pieces, damaged, smashed, bent",
        "dented, split in two",
        "shattered, wrecked, ruined",
    ),
    "name": parts(
        "Anna, Peter, Mr Brown, Julia, Ahmed, Mrs Lopez, Tom, Mia",
        "Olivia, Mr Novak, Jonas",
        "Sofia, Liam, Mrs Khan, Marco, Ruth",
    ),
    "city": parts(
        "London, Leeds, Bristol, Glasgow, Dublin, York", "Oxford, Cardiff", "Norwich, Plymouth, Belfast, Derby"
    ),
    "country": parts(
        "Canada, France, Norway, Australia, Brazil, Japan, Switzerland",
        "Portugal, Mexico",
        "Iceland, Kenya, Singapore, Finland",
    ),
    "street": parts(
        "12 Mill Lane, 7 Station Road, 45 King Street, 3 Park Avenue",
        "88 Church Street, 5 Elm Drive",
        "21 Hill View, 9 Abbey Close",
    ),
    "code": parts("SAVE10, SUMMER20, HELLO15, XMAS25", "SPRING5, VIP30", "BLOOM12, THANKS18, JUNE22"),
    "email": parts(
        "anna.b@mail.com, tom82@webmail.org, jl@post.net", "novak@inbox.com", "s.khan@letters.org, ruth7@mymail.com"
    ),
}

# Small talk uses words of other intents on purpose (paid, gift card, newsletter): counting words is not enough.
CONTEXTS: dict[str, Parts] = {
    "order": Parts(
        train=(
            "my order number is {order}",
            "order {order}",
            "I ordered the {item} on {earlier}",
            "I bought the {item} for {paid}",
            "it is about order {order}, paid with a gift card",
            "I paid by credit card on {earlier}",
            "it is a present for {name}",
            "I used the promo code from your newsletter when I ordered",
            "I ordered it with express shipping",
            "I have the invoice here",
            "the payment of {paid} went through",
            "my account says {order}",
            "the size and the colour were in stock",
            "I had a coupon when buying it",
            "I returned a {other} last year and the refund came quickly",
            "shipping was free",
            "I like your shop and the service was always good",
        ),
        validation=(
            "reference {order}",
            "I bought the {item} in your shop for {paid}",
            "the {paid} was paid with a gift voucher",
            "it belongs to my customer account {email}",
            "the {item} was on your weekly offers page",
            "I am a good customer of yours",
        ),
        test=(
            "ref. {order}",
            "this concerns {order} from {earlier}",
            "the {item} was {paid}, paid via PayPal",
            "I had a voucher when I bought it",
            "{name} and I chose the {item} together",
            "I found the {item} through your advertising",
            "you will find my order under {email}",
            "it was my first order with you",
        ),
    ),
    "shopping": Parts(
        train=(
            "I am looking at the {item}",
            "the {item} is in my basket",
            "I want to buy the {item} for {paid}",
            "it is a present for {name}",
            "I saw the {item} in your newsletter",
            "I ordered from you before and the delivery was fast",
            "I want to pay with my gift card",
            "my last order was {order}",
            "I returned a {other} last year and got my refund, no problem at all",
            "I am logged in to my account",
            "I need an invoice later, but first this",
            "your customer service is always friendly",
        ),
        validation=(
            "I found the {item} on your site for {paid}",
            "I have a gift voucher to spend",
            "the {item} is meant for {name}",
            "I am a customer already ({email})",
            "friends told me about the {item}",
        ),
        test=(
            "the {item} at {paid} caught my eye",
            "{name} told me about the {item}",
            "I was given a gift voucher",
            "I was happy with my earlier purchase {order}",
            "I have the {item} in my cart since {earlier}",
            "your advertising made me curious",
            "I am thinking of buying the {item}",
        ),
    ),
    "account": Parts(
        train=(
            "my name is {name}",
            "my customer number is {order}",
            "I have been a customer since {year}",
            "I ordered the {item} on {earlier}",
            "my email address is {email}",
            "I bought the {item} for {paid} and paid by card",
            "my last parcel came on {earlier}",
            "I returned the {item} in {year} and got the refund",
            "the {item} that I bought is fine",
            "it has nothing to do with my order {order}",
            "the size of the {item} was right",
        ),
        validation=(
            "customer {order}, {name}",
            "I am registered as {email}",
            "I own the {item} from your shop",
            "the delivery of {earlier} was fine",
            "my last order was the {item}",
        ),
        test=(
            "{name} here, client number {order}",
            "I have shopped with you since {year}",
            "I am happy with the {item} from {year}",
            "you can find me under {email}",
            "last time I paid {paid} for the {item}",
            "the order from {earlier} is already here",
        ),
    ),
}

OPENERS = Parts(
    train=(
        "hello",
        "hi",
        "hi there",
        "good morning",
        "dear team",
        "hello, I have a question",
        "hi, I need your help",
        "hey",
    ),
    validation=("good evening", "dear customer service", "hello everybody", "hi, quick question"),
    test=("hiya", "good day", "dear shop", "dear sir or madam", "hey folks", "hello again", "morning"),
)
CLOSERS = Parts(
    train=(
        "thanks",
        "thank you",
        "please help",
        "best regards, {name}",
        "please answer soon",
        "thanks in advance",
        "regards",
    ),
    validation=("many thanks", "greetings, {name}", "hope you can help"),
    test=("cheers", "thx", "kind wishes, {name}", "looking forward to your answer", "much appreciated", "ta, {name}"),
)
