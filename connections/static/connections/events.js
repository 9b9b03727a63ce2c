/**
 * @template Detail
 * @typedef {((event: CustomEvent<Detail>) => void)
 *   | {handleEvent: (event: CustomEvent<Detail>) => void} | null} Listener
 */

/**
 * An EventTarget whose events are each a CustomEvent with a known detail.
 * @template {Record<string, any>} Events
 */
export class TypedTarget extends EventTarget {
  /**
   * @template {keyof Events & string} Type
   * @param {Type} type
   * @param {Listener<Events[Type]>} listener
   * @param {boolean | AddEventListenerOptions} [options]
   */
  addEventListener(type, listener, options) {
    super.addEventListener(type, /** @type {EventListener} */ (listener), options);
  }

  /**
   * @template {keyof Events & string} Type
   * @param {Type} type
   * @param {Listener<Events[Type]>} listener
   * @param {boolean | EventListenerOptions} [options]
   */
  removeEventListener(type, listener, options) {
    super.removeEventListener(type, /** @type {EventListener} */ (listener), options);
  }

  /**
   * @template {keyof Events & string} Type
   * @param {Type} type @param {Events[Type]} detail
   */
  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
