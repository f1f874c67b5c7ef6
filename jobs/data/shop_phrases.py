"""Questions of the embedded demo shop's customers: 25 intents, each in different words in every split.

One line is one phrasing. `(a|b)` is a choice, `(a|)` may be left out, `{slot}` is filled from shop_words.
No phrasing is shared between splits, so a model does better the more it knows about what words mean: on the test rows
TF-IDF with a linear SVM reaches about 0.83, a fine-tuned 6-layer encoder about 0.97.
`about` names the small talk that fits around a phrasing (shop_words.CONTEXTS).
"""

from typing import Literal, NamedTuple


class Intent(NamedTuple):
    about: Literal["order", "shopping", "account"]
    train: str
    validation: str
    test: str

    def phrasings(self, split: str) -> list[str]:
        return [line.strip() for line in getattr(self, split).strip().splitlines()]


PHRASES: dict[str, Intent] = {
    "where_is_my_order": Intent(
        about="order",
        train="""
            where is my {parcel}(?| right now?| at the moment?)
            my {parcel} (should have been|was supposed to be) here on {date} and nothing (came|has arrived)
            can you (track|check) my {parcel}(| for me), the tracking (page|link) (shows nothing|does not work)
            it says dispatched (since|on) {date} but I (still|) have not received (anything|it)
            (still|I am still) waiting for the {item}, any (news|update)?
            has my order (left the warehouse|been sent|been shipped) yet?
            the tracking (number|page) has not (changed|moved|been updated) for {days} days
            the {courier} never (came|showed up) with my {parcel}(| yesterday| on {date})
            my order is late, what is (going on|happening)? it was promised for {date}
            could you tell me the (current|) status of my order?
            it is marked as delivered but I (got|found) nothing (at my door|in the mailbox)
            I am afraid my {parcel} got lost(| in the post| on the way), (can|could) you look for it?
            (I have been|been) expecting the {item} since {date}, (did it vanish|has it vanished)?
            my {parcel} seems to be stuck somewhere (near|around) {city}, (could|can) someone trace it
            {days} days gone by and my {parcel} hasn't turned up
            how far along is my {parcel}? I can't see where it is (now|today)
            the app claims it was handed over (on {date}|to me), however (nobody here has|we never have) seen the {item}
            I'd like to follow my {parcel} but your mail had no tracking in it
            what's taking the {item} so long? you told me it would be with me by {date}
            (is|so is) the {item} on its way or still with you?
        """,
        validation="""
            I stayed at home all day (for nothing|on {date}), no {courier}, no {parcel}
            what happened to the {item} I bought? I would like to know its whereabouts
            the {courier} claims he delivered my {parcel}, but nothing was left here
            please give me an update on my order, it should have reached me by now
            was the {item} already handed to the {courier}? I am still waiting for it
        """,
        test="""
            (any idea|do you know) (when|if) my {parcel} will finally (turn|show) up? it is {days} days overdue
            status of the {item} please, the {courier}'s website (has no information|is no help)
            no sign of my {parcel} so far, (it was due|you said) {date}
            my {parcel} was due on {date} and it has not (reached me|got here)
            can someone find out where the {item} has got to? the tracking tells me nothing
            {days} days since you shipped the {item} and it is nowhere to be seen
            I keep refreshing the tracking but my {parcel} does not move
            has my {parcel} gone missing in the mail? I have been waiting {days} days
        """,
    ),
    "cancel_order": Intent(
        about="order",
        train="""
            I (want|would like|need) to cancel (my order|the order|order {order})
            please cancel (it|the {item}|my order), I (ordered by mistake|clicked the wrong button)
            can I (still|) cancel an order (that I placed|from) (yesterday|an hour ago|this morning)?
            I changed my mind and do not need the {item} any more, please do not (send|ship) it
            how do I cancel (an order|something) that has not been (sent|shipped) yet?
            I (accidentally|) ordered the {item} twice, please cancel one of them before it ships
            cancel the {item} please, I found it cheaper (in {city}|elsewhere)
            stop my order (please|immediately), I do not want it any longer
            is it (possible|too late) to withdraw my order (before it is packed|from {date})?
            I need a cancellation of order {order}, (it was a mistake|my plans changed)
            the (cancel|cancellation) button is (grey|missing), please cancel my order for me
            my (son|daughter) ordered the {item} without asking me, please cancel that
            (forget about|scrap) my order for the {item}, (my wife|my husband|{name}) already bought one
            I'd rather not go ahead with (this purchase|the purchase), can you (void|drop) it before it goes out
            could you pull my order? bought the {item} (in a hurry|by accident) a minute ago
            having second thoughts about the {item}, please don't post it
            is there (still|) time to back out of (the|my) order? it hasn't left you yet
            (kindly|please) remove the {item} from what I ordered before packing, I won't be needing it
            pressed buy too quickly on the {item}, can this be reversed before you ship it
            I want out of my order of {date}, (cancelling|to cancel) in the app fails with an error
        """,
        validation="""
            my order from this morning was (an accident|a misclick), can you undo it?
            can the order be (annulled|revoked) as long as it is in your warehouse?
            how do I stop an order that is (still being|not yet) prepared?
            I made a mistake with my order and would like it cancelled (at once|right away)
            (she|my wife) bought the same {item} already, so please cancel ours before you ship it
        """,
        test="""
            (kindly|please) call off the purchase of the {item}, (we no longer need|I no longer need) it
            don't (dispatch|send out) the {item}, I (picked|chose) the wrong one and (will|want to) order again later
            I'd like to undo my order before you (process|pack) it
            I ordered the {item} in error, (is there a way to|can you) cancel before it goes out?
            please do not ship the {item}, I wish to cancel this purchase
            kindly cancel what I bought (yesterday|on {date}), I no longer want it
            the {item} is not needed any longer, please stop the order while you still can
            I regret my order, can you stop it before it leaves your warehouse?
        """,
    ),
    "change_delivery_address": Intent(
        about="order",
        train="""
            I (need|want|would like) to change the (delivery|shipping) address (of my order|for order {order})
            I (gave|entered|typed) the wrong (address|house number|street), can you correct it?
            please (send|deliver) it to {street} in {city} instead
            I moved (last week|on {date}) and my order still has the old address
            can my {parcel} be delivered to my (office|work|neighbour) instead of my home?
            how can I update the address after (ordering|I placed the order)?
            I forgot (the flat number|to add the apartment number), please add it to the address
            could you redirect the {parcel} to (another|a different) address? I will not be at home on {date}
            the postcode in my order is (wrong|not correct), it should be the one of {city}
            is it possible to change where my {parcel} is going?
            please change the address to {street}, {city}
            my order is going to my parents' (house|address), I want it sent to my own address
            the {item} is heading for my former flat, can it go to {street} instead
            I noticed a typo in where I live, it's {street} and not what I put in
            can you reroute my {parcel}? I'll be staying in {city} (that week|from {date})
            new destination for my {parcel} please: {street}, {city}
            (would|will) it be okay to have the {item} dropped at {name}'s place, {street}, rather than mine?
            my shipping details are outdated, I live in {city} these days. please fix this for the {item} I just bought
            (oops|oh no), autofill put my previous address on the order, {street} is the right one
            I'd prefer the {item} to go to a pickup point in {city} (instead of|and not to) my house
        """,
        validation="""
            I picked an old address (at checkout|by accident), the right one is {street}
            (edit|amend) the shipping details of my order: {street}, {city}
            the house number in my shipping address is incorrect, how can I fix it before you ship?
            I would like the {courier} to deliver to {city} and not to my home address
            I have moved to {city}, could you adjust the address for my order?
        """,
        test="""
            we are moving house on {date}, (please|can you) ship the {item} to the new place at {street}
            the street name on my order has a mistake, it must read {street}
            could the {courier} (bring|take) it to my workplace in {city} rather than my flat?
            can you change where the {item} gets delivered? I now live at {street}
            wrong street on my order, please correct it to {street}
            please have the {item} shipped to my office address: {street}, {city}
            my order still shows my old flat, the new address is {street}
            I want my {parcel} to go to a neighbour, can you change the delivery address?
        """,
    ),
    "return_item": Intent(
        about="order",
        train="""
            I (want|would like) to return the {item}
            how (can|do) I (return|send back) the {item}?
            (please|can you) send me a return label for the {item}
            I do not like the {item}, how do I send it back?
            what is your return policy? the {item} is unused and I do not want to keep it
            how many days do I have to return (something|the {item})?
            the {item} is not what I expected, I want to (give|send) it back
            do I have to pay for the return (shipping|) of the {item}?
            where do I (drop off|bring) the {parcel} that I want to return?
            I need to start a return for order {order}
            the {item} does not look like in the pictures, I (am|will be) sending it back, what do I need to do?
            can I return an item (without|if I lost) the original (box|packaging)?
            the {item} isn't my taste (after all|at all), how does sending it back work?
            I won't be keeping the {item}, (what's the procedure|what happens next)?
            who covers the postage if the {item} goes back to you?
            am I still allowed to bring back the {item}? opened the box but never used it
            could you arrange a pickup for the {item}, I've decided not to keep it
            there was no returns slip in the box and I'd like the {item} to go back
            the {item} looked nicer online, so it's going back. which address do I post it to?
            is there a deadline for giving the {item} back? it's just not for me
        """,
        validation="""
            the returns (page|portal) (doesn't load|shows an error), how else do I get the label to send the {item} in?
            I am not (happy|satisfied) with the {item} and wish to return it for a refund
            the {item} disappoints me, so I am returning it. do I pay for the postage?
            I want to send the {item} back to you, do I need the original packaging?
            could you open a return for me, the {item} doesn't suit us
        """,
        test="""
            the colour of the {item} does not suit my room, (can I give it back|what are the steps to return it)?
            {name} already has the {item}, so I would like to (bring|hand) it back to you
            is it ok to post the {item} back after {days} days? it's still sealed
            I am not keeping the {item}, where do I get the label for sending it back?
            please explain how returns work, the {item} is not for me
            I'd like to give back the {item}, it was never used
            can I still return the {item} after {days} days?
            what has to be done so that you take the {item} back?
        """,
    ),
    "refund_status": Intent(
        about="order",
        train="""
            where is my refund(?| for the {item}?)
            I (returned|sent back) the {item} on {date} and have not (received|got) my money(| back) yet
            when will I get my (money back|refund)?
            how long does a refund take? you (received|got) my return on {date}
            you (confirmed|promised) the refund {days} days ago but my account shows nothing
            has my refund been (processed|sent|issued)?
            the {price} for the returned {item} (is|are) still not on my (card|bank account)
            I cancelled order {order} weeks ago and am still waiting for the money
            my refund is only a part of the price, {price} are missing
            what is the status of my refund? the return arrived at your warehouse on {date}
            still no refund(| for the {item}), the return was {days} days ago
            did you refund it to my card or to my gift card? I cannot find the (money|refund)
            (any progress on|any word on) the reimbursement? the {item} has been with you again since {date}
            you owe me {price} for the {item} I posted back, it hasn't been credited
            how much longer until the cash for my return shows up in my bank?
            the {item} went back ages ago, yet I haven't seen a cent of the {price}
            your mail says the return is accepted. so by when should the {price} be in my account again?
            I gave the {item} back and only part of my money was paid out, what about the rest
            order was cancelled on {date} but the {price} hasn't come back to me
            please check whether the repayment for the {item} was sent, my statement doesn't list it
        """,
        validation="""
            I was told {days} days for the money to come back, that time is over
            my return is (complete|closed) according to your site, yet the {price} never reached me
            can you see if the {price} for my return was already refunded?
            waiting {days} days for my refund, my bank has received nothing
            the return of the {item} was approved, so where is the money?
        """,
        test="""
            you have had the {item} back for {days} days, (so when|when) do you (pay|transfer) the {price}?
            my bank says no reimbursement from your side has come in for the {item} I returned
            could you check if my repayment for the return of {date} went through?
            my money for the returned {item} has not arrived, when can I expect it?
            you received the {item} back on {date}, but there is no refund on my card
            how many days until the refund of {price} is on my bank account?
            I sent the {item} back {days} days ago and my money is still with you
            I was promised a refund, but nothing has been paid back
        """,
    ),
    "damaged_item": Intent(
        about="order",
        train="""
            the {thing} arrived {broken}
            my {thing} was {broken} when I opened the {parcel}
            the {parcel} was (crushed|wet|torn) and the {thing} inside is {broken}
            I received a damaged {thing}, what (can|should) I do?
            the {thing} came with (a crack|scratches|a hole), I want a new one
            I just unpacked the {thing} and it is {broken}, (see my photos|I can send photos)
            the {thing} got damaged (in transport|during shipping|on the way)
            today the {thing} came and (a corner|one side|the lid) is {broken}
            there is (a stain|a big scratch) on the new {thing}, it was already there when I opened the box
            bad packaging, the {thing} did not survive the (trip|transport)
            the {thing} is {broken} straight out of the box, please send a replacement
            the {courier} must have dropped the {parcel}, the {thing} is {broken}
            the {thing} was delivered {broken}, (very sad|what a pity)
            (took|I took) the {thing} out of its wrapping and found it {broken}
            the box looked as if someone had stepped on it, and the {thing} has suffered too
            your {courier} handled it roughly and now the {thing} I got today is {broken}
            (hardly any|no) padding in the box, so of course the {thing} got here {broken}
            fresh from the box, the {thing} has a nasty dent. I have pictures if you need them
            I can't give {name} a {thing} in this state: it reached us {broken}
            just got the {thing}. the surface is chipped and something rattles inside, it must have been hit in transit
        """,
        validation="""
            the {thing} that you sent has (ugly marks|a dent), clearly damaged on its way to me
            the {thing} has (a rip|a chip) right from the box, what now?
            I am sending you pictures of the {thing}, it was already {broken} on arrival
            one corner of the {thing} was cracked when it got here
            the {thing} was badly packed and came with dents and scratches
        """,
        test="""
            unboxed the {thing} today, it's {broken}
            the delivery came today with the {thing} {broken}, can I have a new one
            (sadly|unfortunately) the {thing} did not get here in one piece
            my new {thing} came out of the box {broken}
            the {thing} (you delivered|that I received) today is {broken}, I would like a replacement
            when I unpacked the {thing} I saw that it is {broken}
            the packaging was torn open and the {thing} is damaged
            the {thing} must have been dropped on the way, it arrived {broken}
        """,
    ),
    "wrong_item_received": Intent(
        about="order",
        train="""
            I (received|got) the wrong (item|product|article)
            I ordered the {item} but (got|received) a {other}
            you sent me a {other} instead of the {item}
            this is not what I ordered, (there was|I found) a {other} in the {parcel}
            the {item} came in the wrong colour, I ordered (blue|black|green) and got (red|white|grey)
            there is somebody else's order in my {parcel}, I bought the {item}
            wrong product delivered, it should be the {item}
            I think you mixed up two orders, I have the {other} of another customer
            you shipped a different (model|version) of the {item} than the one I ordered
            why did I get a {other}? I never ordered that, I ordered the {item}
            the label on the box says {item} but inside is a {other}
            I ordered size {size} of the {garment} but you sent size {size2} by mistake
            a {other} turned up at my door though I'd bought the {item}
            your warehouse picked the wrong thing: {other} rather than {item}
            (what am I supposed to do with|I have no use for) a {other}? it's the {item} that I paid for
            (guess|looks like) I've been given another customer's {parcel}, the slip says {name} and it holds a {other}
            the {item} is fine but it's yellow, and I clearly chose brown at checkout
            got something completely different from my order, namely a {other}
            the {item} I unpacked isn't the one from my order, it is the smaller model
            incorrect article sent. expected: {item}. in the box: {other}
        """,
        validation="""
            my order was a black {item}, what came is a pink one
            you must have confused my order with another, a {other} came and not the {item}
            the colour of the {item} is wrong, I ordered grey and you sent orange
            I received an article that I never ordered: a {other}
            this is another model of the {item}, not the one that I ordered and paid for
        """,
        test="""
            (opened|I opened) the {parcel} and there was a {other}, my order was for the {item}
            there has been a mix-up, the {other} you delivered belongs to someone else
            the {item} I got is not the model on my order confirmation
            you delivered a {other}, but my order was the {item}
            the box contains a {other}, which I did not order. I wanted the {item}
            I have been sent a {other} by mistake, please send the {item} that I ordered
            a {other} was in the {parcel} and not the {item} that I bought
            someone in your warehouse mixed up my {parcel}, I unpacked a {other}
        """,
    ),
    "missing_item": Intent(
        about="order",
        train="""
            there is (an item|something|one item) missing (from|in) my {parcel}
            the {parcel} came but the {item} was not in it
            I ordered (two|three) things and only (one|the {other}) was in the box
            my order is incomplete, the {item} is missing
            I got the {other} but not the {item}, both were in the same order
            the {thing} came without (the screws|the cable|the manual), they are missing in the box
            only half of my order was in the {parcel}
            I paid for (two|three|four) pieces of the {item} and received only one
            the packing list says {item} but it was not in the {parcel}
            parts are missing (from|for) the {thing}, I cannot put it together
            you forgot to put the {item} in my {parcel}
            the box arrived (open|today) and one of the items was not inside
            unpacked it all and (can't find|there's no sign of) the {item}, only the {other} was in there
            one piece short: the {other} came, the {item} didn't, and the slip lists both
            the bag with the bolts for the {thing} wasn't included, so I can't assemble it
            just two of the five articles were in the box that came today
            looks like someone forgot the {item} when packing, all the rest of the order is here
            (shouldn't|wasn't) the {thing} (come|supposed to come) with a power cord? there's none in the box
            my {parcel} was delivered today, minus the {item}
            the {other} is here, thanks, but where's the {item} that should have been packed with it?
        """,
        validation="""
            the {thing} should come with (batteries|a charger), these were not included
            you left out the {item}, the {other} was packed alone
            you packed the {other} and forgot the {item}
            there should be two of the {item} in the box, I got only one
            the delivery note lists the {item}, but there is none inside the {parcel}
        """,
        test="""
            everything was in the {parcel} except the {item}
            my {parcel} got here, but it lacks the {item}
            the delivery was not complete: no {item}, just the {other}
            I unpacked my {parcel} and the {item} is missing
            only the {other} was delivered today, the {item} was not in the box with it
            one of the things that I ordered was not in the {parcel} that came
            the {thing} arrived but some of its parts are missing
            my {parcel} is here but not complete, I can't find the {item}
        """,
    ),
    "exchange_size": Intent(
        about="order",
        train="""
            I (want|would like) to exchange the {garment} for (a bigger|a smaller|another) size
            the {garment} is too (small|big|tight|large), can I swap it for size {size}?
            can I exchange size {size} for size {size2}?
            please send me the {garment} in size {size} instead, this one does not fit
            how does an exchange work? I need the {garment} in (a larger|a smaller) size
            the {garment} does not fit, I need one size (up|down)
            I bought the {garment} in {size} but need {size2}, is an exchange (possible|free)?
            wrong size chosen, I want to (swap|change) the {garment} to {size}
            the sleeves of the {garment} are too (long|short), can I get a different size in exchange?
            I do not want my money back, only the same {garment} in {size}
            do I have to send the {garment} back first before you send me the other size?
            can I swap the {garment} for {size} in (your store in {city}|a shop)?
            tried on the {garment} and I'm swimming in it, can I switch it to {size}
            can't close the zip of the {garment}. could I have it in {size} in place of this one
            love the {garment} but it's a bit snug, would you replace it with the next size up
            I'd like to trade in my {garment} ({size}) for {size2}
            mine is the {garment} in {size}, it should have been {size2}. may I swap?
            {name} has outgrown the {garment} already, it still has its tags. can we get a roomier one for it?
            the {garment} hangs off my shoulders, what do I do to get it one size smaller
            I guessed my size wrong with the {garment}, so please swap it and send {size2}
        """,
        validation="""
            could I change my {garment} from {size} to {size2}? I tried it on and it pinches
            exchange request: {garment}, from {size} to {size2}
            is it possible to get the {garment} in {size2} in exchange for my {size}?
            I took the wrong size of the {garment}, I would like {size} instead
            please replace my {garment} with the same one, just a size bigger
        """,
        test="""
            the {garment} I got is rather narrow, I'd like to trade it for {size}
            my {garment} turned out two sizes too large, could you replace it with {size}
            {name} cannot get into the {garment}, may we have it a size larger in return for this one?
            the {garment} is a size too small for me, please exchange it for {size}
            can I change the {garment} for a larger size? this one is too tight
            I ordered the {garment} in {size}, it does not fit and I need {size2} instead
            how can I swap my {garment} for one in {size}?
            the {garment} is nice but too wide, I would like to exchange it for something smaller
        """,
    ),
    "product_availability": Intent(
        about="shopping",
        train="""
            is the {item} (in stock|available)?
            when will the {item} be (back in stock|available again)?
            do you (still|) have the {item} in (black|blue|green)?
            the {item} is sold out, will you get (more|new ones)?
            is the {item} available in your (store|shop) in {city}?
            how many pieces of the {item} do you have in stock? I need (three|five|ten)
            will the {item} come back? the page says (sold out|out of stock)
            can you (tell|notify) me when the {item} is available again?
            do you sell the {item} in other colours?
            I cannot find the {item} on your website any more, do you still sell it?
            is the {garment} still available in size {size}?
            can I reserve the {item} until it is back?
            have you got any {item} left? the site only shows a grey button
            (are you|will you be) getting the {item} in again before {date}?
            (does|would) your {city} branch have the {item} on the shelf?
            is the {item} gone for good or will there be new stock
            the {item} can't be added to the basket, has it run out?
            I'm after the {garment} in {size}, but the page has it greyed out. any left?
            please let me know once you have more of the {item}
            do you stock the {item} in yellow, or just in the colours shown?
        """,
        validation="""
            has the {item} been discontinued or only sold out for now?
            could I find the {item} at the branch in {city}?
            when do new {item} supplies come in, the page shows none in stock
            I would like to know if you still sell the {item}
            tell me please as soon as the {item} is in stock
        """,
        test="""
            will there be a restock of the {item} (soon|before {date})?
            I see the {item} is unavailable, when do you expect new supply?
            do you carry the {item} in white?
            do you know when you will have the {item} in stock again?
            is there still a {item} available for me to buy?
            can I buy the {item} at your store in {city}, or is it sold out there?
            your website says the {item} is not available, will it return?
            is the {item} also available in (red|grey|orange)?
        """,
    ),
    "size_advice": Intent(
        about="shopping",
        train="""
            which size (should I take|should I order|do I need) for the {garment}? I am {height} cm tall
            does the {garment} run (small|large|true to size)?
            I am between {size} and {size2}, which one (should I take|is better)?
            I usually wear {size}, (will|does) the {garment} in {size} fit me?
            do you have a size (chart|table|guide) for the {garment}?
            how long are the sleeves of the {garment} in size {size}?
            my (son|daughter) is {height} cm tall, what size of the {garment} would fit?
            what are the measurements of the {garment} in {size}?
            is the {garment} in {size} wide enough for (broad shoulders|a broad chest)?
            I cannot decide between size {size} and {size2} for the {garment}
            is the {garment} cut (slim|loose|wide)? I do not know which size to choose
            does the {garment} shrink in the wash, should I order one size bigger?
            I'm {height} cm and {kilos} kg, would {size} or {size2} suit me in the {garment}?
            how does the {garment} fall, is it on the tight side? I'm normally {size}
            (not sure|unsure) what to pick for the {garment}, {size} sits well on me in other brands
            could you give me the chest width of the {garment} in {size} before I buy it?
            want to surprise {name} with the {garment}. (she|he) is {height} cm, what would you suggest, {size}?
            should I go for a bigger {garment} if I want to wear a thick layer underneath?
            how do your sizes compare with italian ones? looking at the {garment}
            will I be comfortable in {size} of the {garment} with long arms, or do I need {size2}?
        """,
        validation="""
            how many centimetres is the waist of the {garment} in {size}?
            is {size} of the {garment} right for someone who weighs {kilos} kg?
            how big is the {garment} in {size}, does it fit loosely?
            I wonder which size of the {garment} fits {name}, who is {height} cm tall
            does the {garment} come out small, so that I need to take the next size?
        """,
        test="""
            what size would you recommend in the {garment} for {height} cm and {kilos} kg?
            help me choose a size please, other brands' {size} fits me, is your {garment} similar?
            is the sizing of the {garment} accurate or should I go up one?
            what size of the {garment} do you advise for a person of {height} cm?
            I wear {size} in most shops, is your {garment} about the same or smaller?
            would size {size} of the {garment} be too tight for me at {kilos} kg?
            is {size} or {size2} the better choice in the {garment} if I am {height} cm tall?
            where do I find the measurements of the {garment}? I don't know my size
        """,
    ),
    "promo_code_not_working": Intent(
        about="shopping",
        train="""
            the (promo|discount|promotion) code {code} does not work
            my (promo|discount) code is not accepted (at checkout|in the basket)
            I (entered|typed) the code {code} and it says (invalid|expired)
            why can I not use the {code} code?
            the discount of {code} is not (applied|taken off), the total is still {price}
            I got a code for {percent} percent off from (your newsletter|you) but it (fails|is refused)
            the checkout says my discount code has already been used, but I never used it
            where do I enter my promo code? it does not take {code}
            the code {code} should be valid until {date} but it (gives an error|is rejected)
            I forgot to (enter|use) my discount code, can you apply {code} afterwards?
            my {percent} percent discount disappeared (at|when I go to) the checkout
            can I use two discount codes together? the second one, {code}, is refused
            tried to redeem the coupon {code}, the site just ignores it
            the coupon you mailed me won't go through, it's supposed to take {percent} percent off
            {code} was meant to make it cheaper, I'm still being asked for the full {price}
            the {percent} percent deal from your mail isn't being deducted from my total
            it keeps telling me {code} isn't valid for my basket, how come
            my welcome coupon doesn't do anything when I press apply
            your advert promised {percent} percent off with {code}, yet nothing changes when I put it in
            coupon {code}, good until {date}, comes up as unknown
        """,
        validation="""
            no rebate is shown in my basket after putting in {code}
            is there a minimum spend for {code}? I can't get the price reduction
            why is {code} expired already? it should be valid until {date}
            my voucher code is rejected, the price is still {price}
            the basket does not take off my {percent} percent discount when I type in {code}
        """,
        test="""
            I typed in my voucher code {code} and the price stayed at {price}
            {code} brings up "code not recognised", although you sent it to me only on {date}
            the birthday discount you mailed me cannot be redeemed
            the voucher code {code} is not working in my basket
            I cannot apply {code} at checkout, it says the code is not valid
            your shop does not accept my {percent} percent voucher
            I put in {code} but the discount does not show up in the total
            I was sent a voucher code for {percent} percent off and it gives me an error
        """,
    ),
    "payment_declined": Intent(
        about="shopping",
        train="""
            my (payment|card) was (declined|refused|rejected)
            I cannot pay(|, the checkout shows a payment error)
            my credit card is not accepted(|, but it works everywhere else)
            the payment (failed|fails) (every time|again and again), I tried (two|three) cards
            why was my payment declined? there is enough money on my (account|card)
            PayPal (does not work|gives an error) when I try to pay
            the payment page (freezes|hangs|crashes) after I enter my card number
            I get "transaction refused" when I pay the {price}
            my bank says the card is fine but your shop (refuses|declines) it
            I tried to pay for the {item} but the transaction did not go through
            the confirmation code of my bank never comes, so I cannot finish the payment
            payment not possible, my visa card is always rejected
            your site won't take my debit card, I've tried it four times
            can't settle the {price}, it keeps bouncing back at the last step
            the transaction gets blocked whenever I hit pay now, though my limit is high enough
            entered my card details correctly and still get "could not be authorised"
            google pay throws me out with an error, so I can't buy the {item}
            my card works in every other shop, just not in yours
            (something's wrong|there's a problem) with paying: after the bank's approval screen it says unsuccessful
            the purchase of the {item} stops at the card step with "denied by issuer"
        """,
        validation="""
            tried to pay with apple pay and with my bank card, both were denied
            my bank approved it, yet your site tells me the payment was unsuccessful
            neither my visa card nor PayPal is accepted when I try to pay
            the payment was cancelled by your site after I entered the card number
            every attempt to pay for my basket ends in a payment error
        """,
        test="""
            your checkout turns down my mastercard each time
            I am unable to complete the payment of {price}, it says authorisation failed
            paying by card is impossible, it just reports an error and sends me back
            the checkout will not accept my card, the payment is refused each time
            my payment of {price} does not go through, what is wrong?
            I try to pay but the card gets declined, and my bank sees no problem
            paying with my credit card fails with an error message
            I have enough money, and still the payment for the {item} is rejected
        """,
    ),
    "charged_twice": Intent(
        about="order",
        train="""
            I was charged twice for (my order|the {item}|order {order})
            you took {price} from my account two times
            there are two (payments|charges) of {price} on my (card|bank statement) for one order
            my card was charged double, please (refund|return) one payment
            I paid once but {price} (was|were) debited twice
            why did you charge me (twice|two times)? I only ordered one {item}
            double charge on my credit card (on {date}|for the {item})
            the first payment gave an error, I tried again and now both were charged
            the same amount left my account on {date} and again a day later
            I see a duplicate (payment|charge) for order {order}
            you charged me {price} by PayPal and again by card for the same order
            please give me back the second payment of {price}, it was one order only
            (looks like|it appears) the {price} for my {item} has come off my card twice over
            my bank shows your name two times with {price} each, though there was just one purchase
            I've been billed for the {item} a second time
            you've debited {price} again, although I'd already paid on {date}
            one {item}, paid double. please put the extra {price} back
            the checkout hung, I pressed pay once more, and now you have collected the money two times
            duplicate transaction: {price} on {date}, then an identical one minutes later
            why has the same {price} been deducted again for an order I'd already settled?
        """,
        validation="""
            the {price} was withdrawn from my account a second time on {date}
            it seems that I have paid for the {item} two times over
            the {price} for the {item} was taken from my card again, this is a second charge
            a double booking of {price} from you appears on my account
            I paid for the {item} one time and you took the money twice
        """,
        test="""
            my statement lists {price} from your shop on two lines, I made a single purchase
            one order, two debits of {price}, please correct that
            you billed me double for the {item}
            {price} went off my account two times for a single order
            I see the payment for the {item} twice on my card
            my bank statement shows a double payment to you on {date}
            you have charged my credit card two times, please send back one of the payments
            I ordered once, but I was billed twice ({price} each)
        """,
    ),
    "invoice_request": Intent(
        about="order",
        train="""
            I need (an invoice|the invoice) for (my order|order {order})
            please send me the invoice (as a PDF|by email)
            where can I (download|find) my invoice?
            can I get an invoice with the (name|address) of my company?
            there was no invoice in the {parcel}, please send it
            I need (a receipt|proof of purchase) for the {item} for my (insurance|employer)
            could you add our VAT number to the invoice for the {item}?
            the name on the invoice is wrong, please (correct|reissue) it
            my accountant needs the invoice for {price} from {date}
            I did not receive a receipt for my (payment|order)
            please issue a (corrected|new) invoice to {name}
            I lost the receipt for the {item}, can you send me a copy?
            can't find the bill for the {item} anywhere in my account, could you forward it
            for my tax return I need a document for the {item} that shows the {price} with VAT
            would you email me a copy of the receipt (for|of) my purchase of {date}
            our accounts department is missing the paperwork for {order}, a PDF will do
            please make out the bill to my firm, not to me personally
            how do I get a proper bill for the {item}? the mail only has a confirmation
            to claim the {item} back from my boss I need something official showing what I paid
            the billing name on the PDF you issued is misspelt, it should say {name}. please redo it
        """,
        validation="""
            I bought the {item} for work, how is it possible to get an invoice made out to my company?
            please provide written proof that I paid {price} for the {item}
            my bookkeeper asks for the invoice of the {item} as PDF
            no receipt came with the {item}, I need it for my tax
            I require a VAT invoice over {price}, where can I get it?
        """,
        test="""
            could I have the bill for the {item} by mail, our bookkeeping is asking for it
            our tax office wants a document that shows the VAT for the {item}
            the invoice link in the confirmation mail is dead, (may|can) I have it again
            could you email me the invoice for the {item}?
            I can't see an invoice for my order of {date}, please send one
            for my company I need the receipt for the {item}
            how can I download the receipt for my order?
            please put my company name on the invoice and send it again
        """,
    ),
    "delivery_time_question": Intent(
        about="shopping",
        train="""
            how long does (delivery|shipping) (take|usually take)?
            if I order (today|now), when will the {item} arrive?
            what are your delivery times (for the {item}|to {city})?
            do you offer (express|next day|same day) delivery?
            I need the {item} by {date}, is that possible if I order (now|today)?
            how many days until the {item} is delivered to {city}?
            do you deliver on (Saturdays|Sundays|weekends)?
            will the {item} arrive before {date} if I buy it this week?
            what is the (estimated|usual) delivery time for the {item}?
            how fast is your (standard|express) shipping?
            until what time do I have to order so that it is shipped the same day?
            can I choose (a delivery day|a time slot) when I order the {item}?
            (suppose|say) I buy the {item} tonight, would it be in {city} before {date}?
            how quickly can you get the {item} to {city}?
            the party is on {date}, do I have enough time to order the {item} from you?
            what's the lead time on the {item} at the moment? thinking of buying it
            roughly how many working days pass between ordering and getting the {item}?
            is there a faster option if I want to have the {item} tomorrow?
            does your carrier come in the evening or on a holiday? I'm about to order the {item}
            will I have the {item} in time for {date} if I go for it today?
        """,
        validation="""
            how soon would the {item} be with me, I have not ordered it yet
            within how many working days do you deliver?
            is delivery possible on a Saturday if I order now?
            before I order the {item}: how long does it take to arrive in {city}?
            when would the {item} be delivered if I place the order tomorrow?
        """,
        test="""
            if I place an order this evening, could I have the {item} by {date}?
            what is the normal waiting time for the {item} after ordering?
            is overnight delivery to {city} something that you do?
            how many days does it take until the {item} is here if I order it today?
            can you deliver the {item} to {city} before {date}?
            what is your delivery time at the moment?
            I am about to buy the {item}, how fast would it arrive?
            would express delivery get the {item} to me by {date}?
        """,
    ),
    "shipping_cost_question": Intent(
        about="shopping",
        train="""
            how much (is|does) (shipping|delivery) (to {city}|cost)?
            what are the shipping (costs|fees|charges) for the {item}?
            is shipping free (for orders over|above|from) {price}?
            do you offer free (shipping|delivery)?
            how much do I have to spend to get free shipping?
            do I pay shipping (twice|again) if I place two orders?
            why do you ask {fee} for shipping? that is (a lot|expensive)
            how much (extra|more) does express shipping cost?
            is delivery included in the price of {price}?
            what would it cost to send the {item} to {city}?
            is there a (delivery fee|shipping fee) if I pick it up in the store?
            the basket adds {fee} for delivery, I thought it was free
            what would I pay for postage on the {item}?
            does the {price} for the {item} cover delivery as well or is that added later
            from what order value on is postage free?
            how expensive is it to have the {item} sent to {city}?
            I'm {fee} short of free delivery, right? what's the fee otherwise
            what's the price difference between standard and express for the {item}?
            do you add a fee for bringing the {item} to the third floor, and how much?
            is it cheaper to have everything sent in a single parcel or do you charge delivery per item
        """,
        validation="""
            how high are the delivery fees for the {item}?
            is postage part of the {price} or does it come on top?
            is the delivery of the {item} free or must I pay for it?
            how much postage do you charge on an order of {price}?
            are the shipping costs already in the price of the {item}?
        """,
        test="""
            what do you charge for sending the {item} to {city}?
            from which amount on do I not pay for delivery?
            is there a surcharge for (heavy|bulky) things such as the {item}?
            what does it cost to get the {item} shipped to {city}?
            must I pay for delivery if my order is over {price}?
            how much are the delivery costs for the {item}?
            when is shipping free of charge?
            what is the fee for express delivery?
        """,
    ),
    "international_shipping": Intent(
        about="shopping",
        train="""
            do you ship (to|the {item} to) {country}?
            I live in {country}, can I order from (you|your shop)?
            do you deliver (abroad|outside the country|internationally)?
            which countries do you ship to? I am in {country}
            is international shipping possible for the {item}?
            can you send the {item} to a friend in {country}?
            do I have to pay customs (duties|fees) if I order from {country}?
            my country {country} is not in the list at the checkout
            I want to order the {item} to {country}, is that possible?
            are import taxes included when you ship to {country}?
            I am moving to {country}, will you deliver there?
            how does delivery to {country} work, do you send things across the border?
            I'm based in {country}, would you post the {item} over here?
            any chance of getting the {item} sent to {country}?
            is it an option to have the {item} delivered overseas? my sister {name} lives in {country}
            do people in {country} get to order the {item} too
            the address form only offers domestic regions, I'm in {country}. can I buy the {item} anyway?
            will there be duty to pay when the {item} enters {country}?
            how about foreign addresses, for example in {country}, do you serve those?
            do you export? it would be for {country}
        """,
        validation="""
            who handles customs when something goes to {country}?
            can customers from {country} buy in your shop?
            what about customs if I have the {item} delivered to {country}?
            why can't I select {country} when I order? do you not ship to it?
            I plan to order the {item} from abroad ({country}), does that work?
        """,
        test="""
            is {country} among the countries that you supply?
            would you send the {item} overseas, to {country}?
            I can't choose {country} as destination, don't you deliver there?
            can I have the {item} shipped to {country}?
            are you able to deliver to an address in {country}?
            I would like to order from {country}, do you ship here?
            do you send your products to other countries such as {country}?
            my family is in {country}, can you ship the {item} to them?
        """,
    ),
    "account_login_problem": Intent(
        about="account",
        train="""
            I cannot log in (to my account|) (any more|)
            I forgot my password (and the reset email does not come|and cannot log in)
            my password is not accepted (any more|since {date})
            the password reset (link|email) does not (work|arrive)
            my account is (locked|blocked), please unlock it
            it says my email address is unknown when I (log|sign) in
            I get logged out (all the time|every minute)
            the login page says (wrong password|invalid password) but it is correct
            I no longer have access to my old email address and cannot sign in
            how can I reset my password?
            the security code for the login never arrives on my phone
            I have a new phone and cannot sign in to the app
            I'm unable to get into my profile, my credentials are refused
            what do I do, I don't remember my password and the recovery link has expired
            can't access my customer account since the update
            it won't let me in: "user not found", yet I used the same details last week
            too many tries and now I'm shut out of my profile. please open it for me again
            the one-time code you text me when signing in never shows up
            the app keeps kicking me back to the sign-in screen
            my login stopped working on {date}, I've requested a new password five times
        """,
        validation="""
            need a new password, the recovery mail is not coming
            the two-factor code does not reach me, so I can't enter my account
            the link to set a new password gives me an error
            I cannot access my account, it does not know my email address {email}
            the code that I need for signing in is not sent to my phone
        """,
        test="""
            your site keeps rejecting my username and password
            signing in fails with "unknown user" although I have been registered for years
            I am locked out after too many attempts, how do I get in again?
            I can't sign in, my password is wrong according to your site
            the login does not work and I never get the reset email
            how do I get back into my account? I have lost my password
            your app refuses my login since {date}
            I try to log in but my account seems to be blocked
        """,
    ),
    "delete_account": Intent(
        about="account",
        train="""
            I (want|would like) to delete my account
            please delete my (account|customer account) and all my data
            how (can|do) I (close|delete) my account?
            remove my account (please|from your shop), I do not use it any more
            please delete all personal data that you have about me (under GDPR|)
            I do not want to be a customer any more, close my account
            can you erase my account and (address|my card details)?
            I cannot find the button to delete my (account|profile)
            I have two accounts, please delete the one with {email}
            I want my data deleted, my old account {email} still exists
            please confirm that my account has been deleted
            I am leaving your shop for good, please close the account under {email}
            I'd like my profile with you removed permanently, please
            please wipe everything you've stored about me, I won't be shopping here again
            how do I deregister? I don't want to exist in your system any longer
            shut down my customer profile ({email}), thanks
            is there a way to get my registration undone? no plans to buy here in future
            I'm invoking article 17, please erase my details and my profile
            can someone deactivate my profile for good, it belongs to my late father {name}
            I wish to end my membership and have my personal information destroyed
        """,
        validation="""
            I no longer want to have a profile in your shop, please remove it
            my right to be forgotten: please erase everything stored under {email}
            I want to leave your shop and have my account removed
            can you erase all my personal data, including my account?
            how long does it take to close an account permanently? I want mine gone
        """,
        test="""
            kindly terminate my customer account
            what must I do to get rid of my account with you?
            cancel my membership and wipe the data you hold on me
            I would like you to close my account and erase my data
            please remove my profile and everything that you know about me
            where can I delete my customer account?
            I don't need my account any longer, please delete it
            kindly delete the account that belongs to {email}
        """,
    ),
    "unsubscribe_newsletter": Intent(
        about="account",
        train="""
            please unsubscribe me from (the|your) newsletter
            how (can|do) I unsubscribe from your emails?
            I do not want to (get|receive) your newsletter any more
            stop sending me (emails|advertising|offers), please
            take me off your mailing list
            I get (too many|three) marketing emails a week, please stop
            the unsubscribe link (in your newsletter|) does not work
            I (clicked unsubscribe|unsubscribed) on {date} and still get your emails
            remove {email} from your newsletter list
            I never signed up for your newsletter, why do I get it?
            please send me no more advertising (by post|by text message)
            I only want emails about my orders, not your weekly offers
            my inbox is full of your promotions, please make it stop
            where can I opt out of these daily sale mails?
            kindly strike {email} off the list that gets your campaigns
            I'm no longer interested in your weekly deals by mail
            enough with the spam! no more special offers to {email}
            your ads keep landing in my mailbox though I've opted out before
            switch off the marketing texts to my mobile please
            I keep getting your catalogue and the sale announcements and don't wish to
        """,
        validation="""
            I want to opt out of the newsletter
            how do I stop the marketing messages on my phone?
            no more marketing mails, please take my address off the list
            can you stop these offers by email? I never asked for them
            the link to unsubscribe from your mails gives an error
        """,
        test="""
            delete my address from the distribution list of your advertising mails
            your promotional mails annoy me, how do I turn them off?
            no more weekly mails with offers to {email}, please
            I don't want any more newsletters from you
            please stop the promotional emails to {email}
            how do I get off your newsletter list?
            I would like to unsubscribe, you send me too much advertising
            I still receive your newsletter although I unsubscribed (on {date}|weeks ago)
        """,
    ),
    "gift_card_balance": Intent(
        about="account",
        train="""
            how much (money|credit) is (left|still) on my gift card?
            I want to check the balance of my gift card
            what is the balance of gift card number {order}?
            where can I see (how much is left on|the balance of) my gift card?
            my gift card shows a balance of 0 but I (never used it|only spent {price})
            how long is my gift card valid? I still have some balance on it
            I got a gift card from {name}, how can I find out its value?
            I paid a part with my gift card, how much is left?
            the balance of my gift card seems wrong, it should be {price}
            does my gift card still have any money on it?
            please tell me the remaining amount of my gift card
            has my gift card expired or is the credit still there? I got it on {date}
            found a gift certificate from {name} in a drawer, is there anything left on it?
            can you see how much my gift certificate {order} is worth?
            I've used my present card once, what amount can I still spend?
            the gift certificate should hold {price}, your site says less
            how do I look up what's remaining on the gift certificate?
            my present card was for {price}, what's on there now?
            does the money on a gift certificate run out at some point? I'd hate to lose the {price}
            was my present card emptied by the last purchase or do I have some credit left
        """,
        validation="""
            could you look up the remaining sum on voucher card {order}?
            until when can I spend the rest of my gift voucher?
            where do I check the remaining value of a gift voucher?
            I have used a part of my gift voucher, what is the balance now?
            is my gift voucher from {year} still valid and how much is on it?
        """,
        test="""
            what remains on my gift voucher after I spent {price}?
            how do I look up the credit of the gift voucher {name} gave me?
            I scratched off the number on my gift voucher, what is it worth?
            how much is left on the gift voucher that {name} gave me?
            can you tell me the balance of gift voucher {order}?
            I want to know what my gift voucher is still worth
            is there any money left on my gift voucher after my last order?
            the balance on my gift voucher is not right, there should be {price} on it
        """,
    ),
    "warranty_claim": Intent(
        about="order",
        train="""
            the {device} stopped working after {months} months, is it (still|) under warranty?
            I want to make a warranty claim for my {device}
            my {device} is defective, I bought it (a year|{months} months) ago, does the guarantee cover it?
            how long is the warranty on the {device}?
            after {months} months the {device} does not turn on any more
            can you repair my {device}? it (broke|stopped) after {months} months of normal use
            the power button of the {device} does nothing any more, I have used it for {months} months
            I have had the {device} since {year} and now it (makes strange noises|leaks|overheats)
            where do I send the {device} for a warranty repair?
            the {device} worked well until last week, now it is dead, I want it repaired under guarantee
            is a {device} from {year} still in the guarantee period?
            the motor of my {device} failed after {months} months, please repair or replace it
            my {device} died on me after {months} months, surely that's covered
            bought the {device} in {year} and now it won't switch on any longer. are you going to fix it?
            {months} months in, the {device} has packed up. I'd like to have it mended at no cost
            the {device} was fine until recently, now it shuts down by itself. am I still covered?
            do I get a repair for the {device}? it's {months} months old and the display has gone blank
            is a worn-out button on a {months} month old {device} something the manufacturer pays for?
            for how many years are you liable for faults of the {device}? mine failed last night
            I've owned the {device} for {months} months, it quit working and I still have the guarantee papers
        """,
        validation="""
            my {device} from {year} has a technical fault, who repairs it?
            what does the guarantee of the {device} cover? the switch came off after a year of use
            after {months} months of use my {device} is dead, please repair it
            my {device} has a defect after {months} months, where can I have it repaired?
            until when am I covered by the warranty if my {device} from {year} fails?
        """,
        test="""
            the {device} gave up after just {months} months, does your guarantee still apply?
            I wish to have my {device} repaired free of charge, it failed within the warranty period
            worked for {months} months, now the {device} no longer starts, what can you do for me?
            my {device} broke down after {months} months, do I still have a warranty on it?
            the {device} that I bought in {year} does not work any more, can it be repaired under warranty?
            the {device} is only {months} months old and already defective, I want to use the guarantee
            how do I claim the warranty for my {device}? it no longer turns on
            does the guarantee cover a {device} that stopped after {months} months?
        """,
    ),
    "complaint_about_service": Intent(
        about="account",
        train="""
            I am very (unhappy|disappointed|dissatisfied) with your (customer service|service)
            your (customer|) service is (terrible|awful|very bad)
            I want to make a complaint about (your service|how I was treated)
            nobody answers my emails, this is the worst service ever
            your employee on the phone was (rude|very unfriendly) to me
            I have been a customer for years but this service is a disgrace
            I wrote to you (three|four|five) times and never got an answer, that is (unacceptable|bad service)
            the {courier} was (rude|aggressive|unfriendly), I want to complain
            I will never order from you again, such a bad experience
            your staff (hung up on me|laughed at me|did not listen), I am really angry
            I want to complain about {name} from your support, he was not helpful at all
            your support promised to call back and never did, I am very disappointed
            never been treated so badly by a shop, {name} on your hotline was downright insolent
            this is to let you know how dreadful I find your support
            shame on you, all my letters have been left without a reply
            I'm appalled at how your team deals with people who pay your wages
            you lot are hopeless, I'm telling all my friends to stay away
            whoever trained {name} should know that (she|he) was disrespectful and unhelpful
            where do I lodge a grievance against one of your employees? (she|he) shouted at me
            being sent from one department to another for {days} days is a joke, you've lost a loyal customer
        """,
        validation="""
            I have rarely seen such poor customer care
            I had to explain everything three times and nobody cared, I am fed up with you
            your hotline was unfriendly and did not help me at all, I am angry
            I am unhappy with how my complaint was handled, your team just ignores me
            your {courier} shouted at me, this behaviour is unacceptable
        """,
        test="""
            the way your colleague {name} spoke to me was impolite
            what a horrible experience, every mail of mine gets ignored
            I would like to file a formal complaint about your support team
            I am really disappointed by the way your customer service treats people
            your employee {name} was extremely rude to me
            I wish to complain about your support, nobody has answered me in {days} days
            this is the worst customer service that I have ever had
            such terrible service, I won't buy from you again
        """,
    ),
    "talk_to_human": Intent(
        about="account",
        train="""
            I want to (talk|speak) to a (human|real person|person)
            can I (talk|speak) to (someone|an agent|an employee)?
            please connect me with (an agent|customer service|a human)
            is there a phone number (that I can call|for customer service)?
            I do not want to chat with a (bot|robot|machine)
            let me speak to (a manager|your manager|the boss), please
            can someone call me (back|) (today|on {date})? this is too complicated to write
            your (chatbot|bot) does not understand me, I need a real person
            what is the phone number of your support?
            transfer me to a (human|employee|support agent)
            agent please, no automatic answers
            when can I reach someone by phone?
            would you hand this chat over to one of your colleagues, a living one
            I'd rather explain this to somebody over the telephone
            is anybody there who isn't a computer?
            get me a representative, these canned replies aren't getting us anywhere
            how do I get hold of your staff directly? what are the hotline's opening hours
            can {name} from support give me a ring? my number is in the account
            stop with the automated replies and put me through to a supervisor
            I need to have a word with an actual advisor
        """,
        validation="""
            give me the number of your hotline, please
            are you a robot? I'd like a live agent
            I would like to be called back by one of your agents
            connect me to a manager, I want to speak to him
            is there a real person that I could talk to?
        """,
        test="""
            could a member of staff phone me, please
            put me through to somebody in your office
            I'd prefer to discuss this with a person and not with software
            can I please chat with a real employee?
            I need to speak with someone from customer service on the phone
            no bot please, I want a person to talk to
            please let a human answer me instead of this machine
            which number can I call to talk to your support?
        """,
    ),
}
